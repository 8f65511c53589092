//! The policy against a table that was written from the contract, and against a model of the task that applies it.

use super::*;
use banger_proto::{
    network::{Publish, Rule},
    size::ByteSize,
};
use proptest::{collection::vec, option, prelude::*, sample::select};

const START: Op = Op::Start { wait: Wait::Agent, overcommit: false };
const STOP: Op = Op::Stop { grace: None, cause: StopCause::Asked };
const UNUSED: Op = Op::Stop { grace: None, cause: StopCause::Unused };
const RESTART: Op = Op::Restart { grace: None, overcommit: false };
const KILL: Op = Op::Kill { signal: KillSignal::Kill };
const DELETE: Op = Op::Delete { force: true };
const SET: Op = Op::Set(SetVm {
    vcpu: Some(1),
    memory: None,
    disk_size: None,
    overcommit: None,
    nat: None,
    allow: None,
    deny: None,
    publish: Vec::new(),
    unpublish: Vec::new(),
});

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        start(),
        Just(STOP),
        Just(UNUSED),
        restart(),
        Just(KILL),
        set(),
        Just(DELETE),
        Just(Op::Delete { force: false })
    ]
}

fn start() -> impl Strategy<Value = Op> {
    (select(vec![Wait::Agent, Wait::Boot]), any::<bool>()).prop_map(|(wait, overcommit)| Op::Start { wait, overcommit })
}

fn restart() -> impl Strategy<Value = Op> {
    any::<bool>().prop_map(|overcommit| Op::Restart { grace: None, overcommit })
}

/// Sizes, policies and ports in every combination.
fn set() -> impl Strategy<Value = Op> {
    let rule = || {
        let texts = ["10.0.0.0/8", "192.168.1.10:5432", "*.example.com:443", "example.org"];
        select(texts.map(|text| text.parse::<Rule>().unwrap()).to_vec())
    };
    let rules = || option::of(vec(rule(), 0..3));
    let publish =
        || (any::<u16>(), 1_u16..).prop_map(|(host, guest)| format!("{host}:{guest}").parse::<Publish>().unwrap());
    let ports = || vec(publish(), 0..3);
    let sizes = (option::of(1_u32..9), option::of(any::<u64>()), option::of(any::<u64>()));
    let flag = || option::of(any::<bool>());
    (sizes, flag(), flag(), rules(), rules(), ports(), ports()).prop_map(
        |((vcpu, memory, disk_size), overcommit, nat, allow, deny, publish, unpublish)| {
            let (memory, disk_size) = (memory.map(ByteSize), disk_size.map(ByteSize));
            Op::Set(SetVm { vcpu, memory, disk_size, overcommit, nat, allow, deny, publish, unpublish })
        },
    )
}

fn state() -> impl Strategy<Value = VmState> {
    select(STATES.to_vec())
}

const STATES: [VmState; 6] =
    [VmState::Created, VmState::Starting, VmState::Running, VmState::Stopping, VmState::Stopped, VmState::Failed];

/// The verdicts, written from the contract and not from the code: a VM in that state, busy with that step, answers each
/// operation so. `go` is run, `so` is nothing to do, then `cancel` and `wait`; a word with `!` is a refusal.
const TABLE: &str = "
    busy     state     start      restart    stop       unused  kill       set        delete  delete-f
    -        created   go         go         so         so      !down      go         go      go
    -        starting  !starting  go         go         !used   go         go         !coming go
    -        running   so         go         go         go      go         go         !up     go
    -        stopping  so         go         go         go      go         go         !up     go
    -        stopped   go         go         so         so      !down      go         go      go
    -        failed    go         go         so         so      !down      go         go      go
    start    created   !starting  !starting  cancel     !used   cancel     wait       !coming cancel
    start    starting  !starting  !starting  cancel     !used   cancel     wait       !coming cancel
    start    running   !starting  !starting  cancel     !used   cancel     wait       !up     cancel
    start    stopping  !starting  !starting  cancel     !used   cancel     wait       !up     cancel
    start    stopped   !starting  !starting  cancel     !used   cancel     wait       !coming cancel
    start    failed    !starting  !starting  cancel     !used   cancel     wait       !coming cancel
    restart  created   !starting  !starting  cancel     !used   cancel     wait       !coming cancel
    restart  starting  !starting  !starting  cancel     !used   cancel     wait       !coming cancel
    restart  running   !starting  !starting  cancel     !used   cancel     wait       !up     cancel
    restart  stopping  !starting  !starting  cancel     !used   cancel     wait       !up     cancel
    restart  stopped   !starting  !starting  cancel     !used   cancel     wait       !coming cancel
    restart  failed    !starting  !starting  cancel     !used   cancel     wait       !coming cancel
    stop     created   !stopping  !stopping  wait       !used   cancel     wait       cancel  cancel
    stop     starting  !stopping  !stopping  wait       !used   cancel     wait       !going  cancel
    stop     running   !stopping  !stopping  wait       !used   cancel     wait       !going  cancel
    stop     stopping  !stopping  !stopping  wait       !used   cancel     wait       !going  cancel
    stop     stopped   !stopping  !stopping  wait       !used   cancel     wait       cancel  cancel
    stop     failed    !stopping  !stopping  wait       !used   cancel     wait       cancel  cancel
    unused   created   wait       wait       wait       !used   cancel     wait       cancel  cancel
    unused   starting  wait       wait       wait       !used   cancel     wait       !going  cancel
    unused   running   wait       wait       wait       !used   cancel     wait       !going  cancel
    unused   stopping  wait       wait       wait       !used   cancel     wait       !going  cancel
    unused   stopped   wait       wait       wait       !used   cancel     wait       cancel  cancel
    unused   failed    wait       wait       wait       !used   cancel     wait       cancel  cancel
    kill     created   !stopping  !stopping  wait       !used   wait       wait       wait    wait
    kill     starting  !stopping  !stopping  wait       !used   wait       wait       !going  wait
    kill     running   !stopping  !stopping  wait       !used   wait       wait       !going  wait
    kill     stopping  !stopping  !stopping  wait       !used   wait       wait       !going  wait
    kill     stopped   !stopping  !stopping  wait       !used   wait       wait       wait    wait
    kill     failed    !stopping  !stopping  wait       !used   wait       wait       wait    wait
    set      created   wait       wait       wait       !used   wait       wait       wait    wait
    set      starting  wait       wait       wait       !used   wait       wait       !coming wait
    set      running   wait       wait       wait       !used   wait       wait       !up     wait
    set      stopping  wait       wait       wait       !used   wait       wait       !up     wait
    set      stopped   wait       wait       wait       !used   wait       wait       wait    wait
    set      failed    wait       wait       wait       !used   wait       wait       wait    wait
    delete   created   !deleting  !deleting  !deleting  !used   !deleting  !deleting  wait    wait
    delete   starting  !deleting  !deleting  !deleting  !used   !deleting  !deleting  wait    wait
    delete   running   !deleting  !deleting  !deleting  !used   !deleting  !deleting  wait    wait
    delete   stopping  !deleting  !deleting  !deleting  !used   !deleting  !deleting  wait    wait
    delete   stopped   !deleting  !deleting  !deleting  !used   !deleting  !deleting  wait    wait
    delete   failed    !deleting  !deleting  !deleting  !used   !deleting  !deleting  wait    wait
";

/// Returns the operation's name in the table.
fn label(op: &Op) -> &'static str {
    if *op == UNUSED { "unused" } else { op.name() }
}

/// Returns the table's verdict.
fn written(state: VmState, busy: Option<&Op>, asked: &Op) -> Verdict {
    let column = if *asked == (Op::Delete { force: true }) { "delete-f" } else { label(asked) };
    let mut lines = TABLE.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let head = lines.find(|words| !words.is_empty()).unwrap();
    let column = head.iter().position(|word| *word == column).unwrap();
    let row = lines.find(|words| words.starts_with(&[busy.map_or("-", label), state.as_str()])).unwrap();
    match row[column] {
        "go" => Verdict::Run,
        "so" => Verdict::Nothing,
        "cancel" => Verdict::Cancel,
        "wait" => Verdict::Wait,
        "!starting" => Verdict::Refuse(Reason::Starting),
        "!stopping" => Verdict::Refuse(Reason::Stopping),
        "!deleting" => Verdict::Refuse(Reason::Deleting),
        "!down" => Verdict::Refuse(Reason::NotRunning),
        "!up" => Verdict::Refuse(Reason::Running),
        "!coming" => Verdict::Refuse(Reason::ComingUp),
        "!going" => Verdict::Refuse(Reason::GoingDown),
        "!used" => Verdict::Refuse(Reason::InUse),
        other => panic!("{other}"),
    }
}

#[derive(Debug, Clone)]
enum Step {
    Command(Op),
    /// The step in progress advances: a start records that it begins, a restart has taken the VM down.
    Proceed,
    /// The step in progress ends; `true` if it succeeded.
    End(bool),
    /// The guest ends by itself while nothing is in progress.
    Dies(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => op().prop_map(Step::Command),
        2 => Just(Step::Proceed),
        2 => any::<bool>().prop_map(Step::End),
        1 => any::<bool>().prop_map(Step::Dies),
    ]
}

/// A model of the task. It applies the table's verdicts, so that their consequences are tested, and compares each with
/// the policy's decision.
#[derive(Debug)]
struct Model {
    state: VmState,
    busy: Option<Op>,
    cancelled: bool,
    waiting: Vec<Op>,
    gone: bool,
}

impl Model {
    fn ask(&mut self, op: Op) {
        let verdict = written(self.state, self.busy.as_ref(), &op);
        assert_eq!(decide(self.state, self.busy.as_ref(), &op), verdict, "{op:?} of {self:?}");
        let goes = matches!(self.busy, Some(Op::Delete { .. }));
        if op == (Op::Delete { force: false }) && !goes && (self.state.is_live() || self.is_coming_up()) {
            assert!(matches!(verdict, Verdict::Refuse(_)), "somebody waits for it: {self:?}");
        }
        match verdict {
            Verdict::Run => {
                assert!(self.busy.is_none(), "two steps at once: {:?} and {op:?}", self.busy);
                self.begin(op);
            }
            Verdict::Nothing => match op {
                Op::Start { .. } => assert!(self.state.is_live()),
                Op::Stop { .. } => assert!(!self.state.is_live()),
                other => panic!("{other:?} is never nothing"),
            },
            Verdict::Cancel => {
                assert!(self.busy.is_some(), "nothing to cancel");
                self.cancelled = true;
                self.waiting.push(op);
            }
            Verdict::Wait => {
                assert!(self.busy.is_some(), "nothing to wait for");
                self.waiting.push(op);
            }
            Verdict::Refuse(_) => {}
        }
    }

    fn is_coming_up(&self) -> bool {
        matches!(self.busy, Some(Op::Start { .. } | Op::Restart { .. }))
    }

    fn begin(&mut self, op: Op) {
        self.cancelled = false;
        if let Op::Stop { .. } | Op::Restart { .. } = op
            && self.state.is_live()
        {
            self.state = VmState::Stopping;
        }
        self.busy = Some(op);
    }

    /// A step that brings a VM up probes the host first, and the row keeps its state meanwhile. A restart first takes
    /// the VM down and continues as a start.
    fn proceed(&mut self) {
        if !self.is_coming_up() || self.cancelled {
            return;
        }
        self.state = match self.state {
            VmState::Stopping => VmState::Stopped,
            VmState::Created | VmState::Stopped | VmState::Failed => VmState::Starting,
            live => live,
        };
    }

    fn end(&mut self, worked: bool) {
        let Some(op) = self.busy.take() else { return };
        let worked = worked && !self.cancelled;
        self.state = match op {
            Op::Start { .. } | Op::Restart { .. } if worked => VmState::Running,
            // The first half was cancelled or never began: the VM still runs.
            Op::Restart { .. } if self.state == VmState::Stopping => VmState::Running,
            Op::Start { .. } | Op::Restart { .. } if !self.state.is_live() => self.state,
            Op::Start { .. } | Op::Restart { .. } if self.cancelled => VmState::Stopped,
            Op::Start { .. } | Op::Restart { .. } => VmState::Failed,
            Op::Stop { .. } if self.cancelled => VmState::Running,
            Op::Stop { .. } => VmState::Stopped,
            Op::Kill { .. } if worked => VmState::Stopped,
            Op::Kill { .. } | Op::Set(_) => self.state,
            Op::Delete { .. } => {
                self.gone = true;
                return;
            }
        };
        for op in std::mem::take(&mut self.waiting) {
            self.ask(op);
        }
    }
}

proptest! {
    /// In any history there is one step at a time and no other state than the diagram's. A forced delete always
    /// succeeds without waiting for a start, and an unforced one takes nothing that runs or is about to.
    #[test]
    fn any_history_keeps_the_rules(steps in vec(step(), 0..60)) {
        let mut vm = Model {
            state: VmState::Created, busy: None, cancelled: false, waiting: Vec::new(), gone: false,
        };
        for step in steps {
            match step {
                Step::Command(op) => vm.ask(op),
                Step::Proceed => vm.proceed(),
                Step::End(worked) => vm.end(worked),
                Step::Dies(clean) if vm.busy.is_none() && vm.state.is_live() => {
                    vm.state = if clean { VmState::Stopped } else { VmState::Failed };
                }
                Step::Dies(_) => {}
            }
            if vm.gone {
                return Ok(());
            }
            if vm.busy.is_none() {
                prop_assert!(vm.waiting.is_empty(), "forgotten: {vm:?}");
                prop_assert!(!matches!(vm.state, VmState::Starting | VmState::Stopping), "stuck: {vm:?}");
            }
        }
        vm.ask(DELETE);
        if let Some(Op::Start { .. } | Op::Restart { .. }) = vm.busy {
            prop_assert!(vm.cancelled, "a delete waits behind a start: {vm:?}");
        }
        for _ in 0..64 {
            vm.end(true);
            if vm.gone {
                return Ok(());
            }
        }
        prop_assert!(false, "never deleted: {vm:?}");
    }

    /// The policy does not depend on what is set: a change of the network waits and is refused like one of the sizes.
    #[test]
    fn every_set_is_a_set(set in set(), state in state(), other in op()) {
        prop_assert_eq!(decide(state, None, &set), Verdict::Run);
        prop_assert_eq!(decide(state, Some(&other), &set), decide(state, Some(&other), &SET));
        prop_assert_eq!(decide(state, Some(&set), &other), decide(state, Some(&SET), &other));
    }

    /// Nor does it depend on how a VM is started: a start that ignores free memory is refused and waits like any other.
    #[test]
    fn every_start_is_a_start(start in start(), restart in restart(), state in state(), other in option::of(op())) {
        for (this, plain) in [(&start, &START), (&restart, &RESTART)] {
            prop_assert_eq!(decide(state, other.as_ref(), this), decide(state, other.as_ref(), plain));
            if let Some(other) = &other {
                prop_assert_eq!(decide(state, Some(this), other), decide(state, Some(plain), other));
            }
        }
    }

    /// Stop and kill never wait for a start, and an unforced delete never cancels one, whatever state the row of a VM
    /// between two machines has.
    #[test]
    fn going_down_is_never_stuck(asked in op()) {
        for busy in [&START, &RESTART] {
            for state in STATES {
                let verdict = decide(state, Some(busy), &asked);
                match asked {
                    UNUSED => prop_assert_eq!(verdict, Verdict::Refuse(Reason::InUse)),
                    Op::Stop { .. } | Op::Kill { .. } | Op::Delete { force: true } => {
                        prop_assert_eq!(verdict, Verdict::Cancel);
                    }
                    Op::Set(_) => prop_assert_eq!(verdict, Verdict::Wait),
                    _ => prop_assert!(matches!(verdict, Verdict::Refuse(_))),
                }
            }
        }
    }
}

#[test]
fn the_table_holds() {
    let asked = [START, RESTART, STOP, UNUSED, KILL, SET, Op::Delete { force: false }, DELETE];
    let busy = asked.iter().map(Some).chain([None]);
    let mut cells = 0;
    for (busy, state) in busy.flat_map(|busy| STATES.map(|state| (busy, state))) {
        for asked in &asked {
            let decided = decide(state, busy, asked);
            assert_eq!(decided, written(state, busy, asked), "{asked:?} while {busy:?} in {state}");
            cells += 1;
        }
    }
    assert_eq!(cells, STATES.len() * 9 * 8);
}
