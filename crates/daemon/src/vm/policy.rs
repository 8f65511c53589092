//! What is legal when: a pure function of a VM's state, the step in progress, and what is asked.
//!
//! ```text
//!           idle, down  idle, live   start, restart  stop         kill    set   delete
//!  start    run         nothing      refuse          refuse       refuse  wait  refuse
//!  restart  run         run          refuse          refuse       refuse  wait  refuse
//!  stop     nothing     run          cancel, run     wait         wait    wait  refuse
//!  kill     refuse      run          cancel, run     cancel, run  wait    wait  refuse
//!  set      run         run          wait            wait         wait    wait  refuse
//!  delete   run         needs force  cancel, run     cancel, run  wait    wait  wait
//! ```
//! The columns are the step in progress; a delete of what is live needs force whatever is in progress. "Down" is created,
//! stopped or failed. A step that is cancelled ends in order and soon; what waited for it is then decided anew, in the
//! state it left. A start whose agent answered leaves a machine that can be asked to power off, so that a stop of it is an
//! orderly one; it goes on if nothing that takes the VM down comes after it, and until then another start is refused as
//! during the step.
//!
//! A start ends when the VM runs. Who waits for its services then (`--wait boot`) waits beside all of this: sizes, ports
//! and policies can be changed, another start is nothing to do, and what takes the VM down ends the wait.

use banger_proto::api::vm::{KillSignal, SetVm, VmState, Wait};
use std::time::Duration;

/// What can be asked of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Op {
    /// Make it run, and wait until it does.
    Start {
        /// When to answer: the step itself ends when the VM runs.
        wait: Wait,
    },
    /// Orderly power-off, at most this long; then the VMM is killed.
    Stop {
        /// Absent: what its init is used to.
        grace: Option<Duration>,
        /// Who wants it.
        cause: StopCause,
    },
    /// Stop and start: a fresh kernel.
    Restart {
        /// As for stop.
        grace: Option<Duration>,
    },
    /// A signal for the VMM.
    Kill {
        /// Which.
        signal: KillSignal,
    },
    /// Other sizes, from the next start on.
    Set(SetVm),
    /// Everything goes.
    Delete {
        /// Also when it runs.
        force: bool,
    },
}

impl Op {
    /// What it is called.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Start { .. } => "start",
            Self::Stop { .. } => "stop",
            Self::Restart { .. } => "restart",
            Self::Kill { .. } => "kill",
            Self::Set(_) => "set",
            Self::Delete { .. } => "delete",
        }
    }
}

/// Why a VM is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopCause {
    /// Somebody asked for it.
    Asked,
    /// Nobody used it for as long as the configuration says.
    Unused,
}

/// What to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Run it now.
    Run,
    /// It is so already: success.
    Nothing,
    /// Cancel the step in progress; decide again when it has ended.
    Cancel,
    /// Decide again when the step in progress has ended.
    Wait,
    /// No, for this reason.
    Refuse(Reason),
}

/// Why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// It is on its way up.
    Starting,
    /// It is on its way down.
    Stopping,
    /// It is being deleted.
    Deleting,
    /// It does not run.
    NotRunning,
    /// It runs, and that was not forced.
    Running,
}

/// Decides about `asked`, given the state and the step in progress.
pub(crate) fn decide(state: VmState, busy: Option<&Op>, asked: &Op) -> Verdict {
    use Verdict::{Nothing, Refuse, Run};
    match (busy, asked) {
        // A start that was left half way goes on when nothing else is to be done, and may fail then.
        (None, Op::Start { .. }) if state == VmState::Starting => Refuse(Reason::Starting),
        (None, Op::Start { .. }) if state.is_live() => Nothing,
        (None, Op::Stop { .. }) if !state.is_live() => Nothing,
        (None, Op::Kill { .. }) if !state.is_live() => Refuse(Reason::NotRunning),
        // Also while it comes and goes: force is about what is lost, and a VMM is what would be.
        (_, Op::Delete { force: false }) if state.is_live() => Refuse(Reason::Running),
        (None, _) => Run,
        (Some(busy), asked) => decide_meanwhile(busy, asked),
    }
}

/// The step in progress is `busy`.
fn decide_meanwhile(busy: &Op, asked: &Op) -> Verdict {
    match (busy, asked) {
        (Op::Delete { .. }, Op::Delete { .. }) => Verdict::Wait,
        (Op::Delete { .. }, _) => Verdict::Refuse(Reason::Deleting),
        // A set changes a wish, not a machine: the step in progress goes by the wish it began with, and a set itself
        // takes a moment.
        (_, Op::Set(_)) | (Op::Set(_), _) => Verdict::Wait,
        (Op::Start { .. } | Op::Restart { .. }, Op::Start { .. } | Op::Restart { .. }) => {
            Verdict::Refuse(Reason::Starting)
        }
        (Op::Stop { .. } | Op::Kill { .. }, Op::Start { .. } | Op::Restart { .. }) => Verdict::Refuse(Reason::Stopping),
        (Op::Start { .. } | Op::Restart { .. }, _) | (Op::Stop { .. }, Op::Kill { .. } | Op::Delete { .. }) => {
            Verdict::Cancel
        }
        (Op::Stop { .. } | Op::Kill { .. }, _) => Verdict::Wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_proto::{
        network::{Publish, Rule},
        size::ByteSize,
    };
    use proptest::{collection::vec, option, prelude::*, sample::select};

    const START: Op = Op::Start { wait: Wait::Agent };
    const STOP: Op = Op::Stop { grace: None, cause: StopCause::Asked };
    const RESTART: Op = Op::Restart { grace: None };
    const KILL: Op = Op::Kill { signal: KillSignal::Kill };
    const DELETE: Op = Op::Delete { force: true };
    const SET: Op = Op::Set(SetVm {
        vcpu: Some(1),
        memory: None,
        disk_size: None,
        nat: None,
        allow: None,
        deny: None,
        publish: Vec::new(),
        unpublish: Vec::new(),
    });

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            Just(START),
            Just(STOP),
            Just(RESTART),
            Just(KILL),
            set(),
            Just(DELETE),
            Just(Op::Delete { force: false })
        ]
    }

    /// Sizes, a policy and ports, in every mixture.
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
        (sizes, option::of(any::<bool>()), rules(), rules(), ports(), ports()).prop_map(
            |((vcpu, memory, disk_size), nat, allow, deny, publish, unpublish)| {
                let (memory, disk_size) = (memory.map(ByteSize), disk_size.map(ByteSize));
                Op::Set(SetVm { vcpu, memory, disk_size, nat, allow, deny, publish, unpublish })
            },
        )
    }

    fn state() -> impl Strategy<Value = VmState> {
        select(STATES.to_vec())
    }

    const STATES: [VmState; 6] =
        [VmState::Created, VmState::Starting, VmState::Running, VmState::Stopping, VmState::Stopped, VmState::Failed];

    /// The verdicts, cell by cell, written down from the contract and not from the code: what a VM in that state, busy
    /// with that step, answers to each request. `go` run, `so` it is so already, `cancel`, `wait`; anything with an `!` is
    /// a refusal.
    const TABLE: &str = "
        busy     state     start      restart    stop    kill    set      delete   delete-f
        -        created   go         go         so      !down   go       go       go
        -        starting  !starting  go         go      go      go       !up      go
        -        running   so         go         go      go      go       !up      go
        -        stopping  so         go         go      go      go       !up      go
        -        stopped   go         go         so      !down   go       go       go
        -        failed    go         go         so      !down   go       go       go
        start    created   !starting  !starting  cancel  cancel  wait     cancel   cancel
        start    starting  !starting  !starting  cancel  cancel  wait     !up      cancel
        start    running   !starting  !starting  cancel  cancel  wait     !up      cancel
        start    stopping  !starting  !starting  cancel  cancel  wait     !up      cancel
        start    stopped   !starting  !starting  cancel  cancel  wait     cancel   cancel
        start    failed    !starting  !starting  cancel  cancel  wait     cancel   cancel
        restart  created   !starting  !starting  cancel  cancel  wait     cancel   cancel
        restart  starting  !starting  !starting  cancel  cancel  wait     !up      cancel
        restart  running   !starting  !starting  cancel  cancel  wait     !up      cancel
        restart  stopping  !starting  !starting  cancel  cancel  wait     !up      cancel
        restart  stopped   !starting  !starting  cancel  cancel  wait     cancel   cancel
        restart  failed    !starting  !starting  cancel  cancel  wait     cancel   cancel
        stop     created   !stopping  !stopping  wait    cancel  wait     cancel   cancel
        stop     starting  !stopping  !stopping  wait    cancel  wait     !up      cancel
        stop     running   !stopping  !stopping  wait    cancel  wait     !up      cancel
        stop     stopping  !stopping  !stopping  wait    cancel  wait     !up      cancel
        stop     stopped   !stopping  !stopping  wait    cancel  wait     cancel   cancel
        stop     failed    !stopping  !stopping  wait    cancel  wait     cancel   cancel
        kill     created   !stopping  !stopping  wait    wait    wait     wait     wait
        kill     starting  !stopping  !stopping  wait    wait    wait     !up      wait
        kill     running   !stopping  !stopping  wait    wait    wait     !up      wait
        kill     stopping  !stopping  !stopping  wait    wait    wait     !up      wait
        kill     stopped   !stopping  !stopping  wait    wait    wait     wait     wait
        kill     failed    !stopping  !stopping  wait    wait    wait     wait     wait
        set      created   wait       wait       wait    wait    wait     wait     wait
        set      starting  wait       wait       wait    wait    wait     !up      wait
        set      running   wait       wait       wait    wait    wait     !up      wait
        set      stopping  wait       wait       wait    wait    wait     !up      wait
        set      stopped   wait       wait       wait    wait    wait     wait     wait
        set      failed    wait       wait       wait    wait    wait     wait     wait
        delete   created   !deleting  !deleting  !deleting  !deleting  !deleting  wait  wait
        delete   starting  !deleting  !deleting  !deleting  !deleting  !deleting  !up   wait
        delete   running   !deleting  !deleting  !deleting  !deleting  !deleting  !up   wait
        delete   stopping  !deleting  !deleting  !deleting  !deleting  !deleting  !up   wait
        delete   stopped   !deleting  !deleting  !deleting  !deleting  !deleting  wait  wait
        delete   failed    !deleting  !deleting  !deleting  !deleting  !deleting  wait  wait
    ";

    /// The cell of the table.
    fn written(state: VmState, busy: Option<&Op>, asked: &Op) -> Verdict {
        let column = if *asked == (Op::Delete { force: true }) { "delete-f" } else { asked.name() };
        let mut lines = TABLE.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let head = lines.find(|words| !words.is_empty()).unwrap();
        let column = head.iter().position(|word| *word == column).unwrap();
        let row = lines.find(|words| words.starts_with(&[busy.map_or("-", Op::name), state.as_str()])).unwrap();
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
            other => panic!("{other}"),
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Ask(Op),
        /// The step in progress ends; whether it worked.
        End(bool),
        /// The guest goes by itself while nothing is in progress.
        Dies(bool),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => op().prop_map(Step::Ask),
            2 => any::<bool>().prop_map(Step::End),
            1 => any::<bool>().prop_map(Step::Dies),
        ]
    }

    /// What the task does with verdicts, without a task. Its verdicts are the written ones, so that what follows from them
    /// is tried, and each is compared with what the policy decides.
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

        fn begin(&mut self, op: Op) {
            self.cancelled = false;
            match &op {
                Op::Start { .. } => self.state = VmState::Starting,
                Op::Stop { .. } | Op::Restart { .. } if self.state.is_live() => self.state = VmState::Stopping,
                _ => {}
            }
            self.busy = Some(op);
        }

        fn end(&mut self, worked: bool) {
            let Some(op) = self.busy.take() else { return };
            let worked = worked && !self.cancelled;
            self.state = match op {
                Op::Start { .. } | Op::Restart { .. } if worked => VmState::Running,
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
        /// Whatever is asked and whatever happens: one step at a time, the states of the picture only, and a forced
        /// delete always gets its way without waiting for a start.
        #[test]
        fn any_history_keeps_the_rules(steps in vec(step(), 0..60)) {
            let mut vm = Model {
                state: VmState::Created, busy: None, cancelled: false, waiting: Vec::new(), gone: false,
            };
            for step in steps {
                match step {
                    Step::Ask(op) => vm.ask(op),
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

        /// What is set is nothing the policy goes by: a change of the network waits and is refused as one of the sizes.
        #[test]
        fn every_set_is_a_set(set in set(), state in state(), other in op()) {
            prop_assert_eq!(decide(state, None, &set), Verdict::Run);
            prop_assert_eq!(decide(state, Some(&other), &set), decide(state, Some(&other), &SET));
            prop_assert_eq!(decide(state, Some(&set), &other), decide(state, Some(&SET), &other));
        }

        /// Stop and kill never wait behind a start, and a delete without force never takes a VMM down.
        #[test]
        fn going_down_is_never_stuck(asked in op()) {
            for busy in [&START, &RESTART] {
                for state in [VmState::Starting, VmState::Stopping] {
                    let verdict = decide(state, Some(busy), &asked);
                    match asked {
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
        let asked = [START, RESTART, STOP, KILL, SET, Op::Delete { force: false }, DELETE];
        let busy = asked.iter().map(Some).chain([None]);
        let mut cells = 0;
        for (busy, state) in busy.flat_map(|busy| STATES.map(|state| (busy, state))) {
            for asked in &asked {
                let decided = decide(state, busy, asked);
                assert_eq!(decided, written(state, busy, asked), "{asked:?} while {busy:?} in {state}");
                cells += 1;
            }
        }
        assert_eq!(cells, STATES.len() * 8 * 7);
    }
}
