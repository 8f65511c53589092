//! Names of VMs that were given none.

use crate::vms;
use banger_testkit::TestEnv;
use rusqlite::Connection;
use std::collections::BTreeSet;

/// The words that names are made of, as the source has them.
fn words(list: &str) -> Vec<&'static str> {
    let source = include_str!("../../../daemon/src/vm/naming.rs");
    let (_, rest) = source.split_once(&format!("const {list}: [&str; 48] = [")).expect("the list");
    rest.split_once(']').expect("its end").0.split('"').skip(1).step_by(2).collect()
}

#[test]
fn when_every_name_of_two_words_is_taken_one_with_a_number_is_found() {
    let Some(env) = TestEnv::fake() else { return };
    let create = || env.banger(["vm", "create", "--no-start"]).run().expect(0).out().trim().to_owned();
    let plain = create();
    let (first, second) = plain.split_once('-').expect("two words");
    let (firsts, seconds) = (words("FIRST"), words("SECOND"));
    assert!(firsts.contains(&first) && seconds.contains(&second) && firsts.len() * seconds.len() == 2304, "{plain}");

    // Rows of VMs that nobody made: a name is taken by being in one.
    let mut database = Connection::open(env.layout().database()).unwrap();
    database.busy_timeout(crate::SOON).unwrap();
    let fill = database.transaction().unwrap();
    fill.execute_batch("CREATE TEMP TABLE copy AS SELECT * FROM vms").unwrap();
    let mut number = 0;
    for name in firsts.iter().flat_map(|first| seconds.iter().map(move |second| format!("{first}-{second}"))) {
        if name == plain {
            continue;
        }
        number += 1;
        let (id, machine) = (format!("{number:012x}"), format!("{number:032x}"));
        fill.execute("UPDATE copy SET id = ?1, name = ?2, machine_id = ?3", (&id, &name, &machine)).unwrap();
        fill.execute("INSERT INTO vms SELECT * FROM copy", ()).unwrap();
    }
    fill.execute_batch("DROP TABLE copy").unwrap();
    fill.commit().unwrap();

    let numbered: BTreeSet<String> = (0..3).map(|_| create()).collect();
    assert_eq!(numbered.len(), 3, "{numbered:?}");
    for name in &numbered {
        let mut parts = name.splitn(3, '-');
        let is_word = |list: &[&str], part: Option<&str>| part.is_some_and(|part| list.contains(&part));
        assert!(is_word(&firsts, parts.next()) && is_word(&seconds, parts.next()), "{name}");
        assert!(parts.next().is_some_and(|number| number.parse::<u16>().is_ok_and(|number| number < 10_000)), "{name}");
    }
    // What somebody chose is taken all the same.
    let taken = env.banger(["vm", "create", "--no-start", "--name", &plain]).run().expect(1);
    assert!(taken.err().contains(&format!("{plain} already")), "{taken}");

    let removed = database.execute("DELETE FROM vms WHERE id LIKE '000000000%'", ()).unwrap();
    assert_eq!(removed, 2303);
    drop(database);
    for name in numbered.iter().chain([&plain]) {
        env.banger(["vm", "delete", name]).run().expect(0);
    }
    assert_eq!(vms(&env), []);
    env.assert_nothing_left();
}
