//! Sources as hosts have them, with mirrors nobody can reach.

use super::*;

fn host(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("sources.list.d")).unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

fn image(files: &[(&str, &str)], suite: &str) -> String {
    for_image(&of_host(host(files).path(), suite).stanzas)
}

const DEB822: &str = "\
# a comment
Types: deb
URIs: http://mirror.invalid/debian
Suites: bookworm bookworm-updates bookworm-backports
Components: main non-free
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb deb-src
# in the middle
URIs: http://user:secret@mirror.invalid/debian-security/
Suites: bookworm-security
Components: main
";

#[test]
fn deb822_for_the_same_suite() {
    assert_eq!(
        image(&[("sources.list.d/debian.sources", DEB822)], "bookworm"),
        "Types: deb\n\
         URIs: http://mirror.invalid/debian\n\
         Suites: bookworm bookworm-updates\n\
         Components: main\n\
         Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\
         \n\
         Types: deb\n\
         URIs: http://mirror.invalid/debian-security/\n\
         Suites: bookworm-security\n\
         Components: main\n\
         Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
    );
}

#[test]
fn another_suite_takes_the_place_of_the_hosts() {
    let text = image(&[("sources.list.d/debian.sources", DEB822)], "trixie");
    assert!(text.contains("Suites: trixie trixie-updates\n") && text.contains("Suites: trixie-security\n"), "{text}");
    let text = image(&[("sources.list.d/debian.sources", DEB822)], "sid");
    assert!(text.contains("Suites: sid\n") && !text.contains("security"), "{text}");
}

#[test]
fn one_line_form() {
    let list = "\
deb http://mirror.invalid/debian bookworm main contrib # inline
deb-src http://mirror.invalid/debian bookworm main
# deb http://off.invalid/debian bookworm main
deb [arch=amd64 signed-by=/etc/a.gpg,/etc/b.gpg trusted=yes] http://mirror.invalid/debian bookworm-updates main
deb http://old.invalid/debian-security buster/updates main
deb
";
    let found = of_host(host(&[("sources.list", list)]).path(), "bookworm").stanzas;
    let bootstrap = for_bootstrap(&found);
    assert_eq!(found.len(), 3, "{bootstrap}");
    assert!(bootstrap.contains("Signed-By: /etc/a.gpg /etc/b.gpg\nTrusted: yes\n"), "{bootstrap}");
    assert!(bootstrap.contains("URIs: http://old.invalid/debian-security\nSuites: bookworm-security\n"), "{bootstrap}");
    assert!(!for_image(&found).contains("/etc/a.gpg"));
}

#[test]
fn third_parties_do_not_get_in() {
    let list = "\
deb https://node.invalid/node_20.x nodistro main
deb https://docker.invalid/linux/debian bookworm stable
deb https://cloud.invalid/apt cloud-sdk-bookworm main
deb https://code.invalid/repos/code stable main
deb https://pg.invalid/debian bookworm-pgdg main
deb https://ubuntu.invalid/ubuntu noble main
";
    assert_eq!(image(&[("sources.list", list)], "bookworm"), "");
    let disabled = DEB822.replace("Suites:", "Enabled: no\nSuites:");
    assert_eq!(image(&[("sources.list.d/debian.sources", &disabled)], "bookworm"), "");
    assert_eq!(image(&[("sources.list.d/debian.sources.disabled", DEB822)], "bookworm"), "");
    assert_eq!(image(&[], "bookworm"), "");
}

#[test]
fn snapshots_and_mirror_lists() {
    let dir =
        host(&[("debian.list", "# mirrors\nhttp://first.invalid/debian priority:1\nhttp://second.invalid/debian\n")]);
    let list = format!(
        "deb mirror+file:{0}/debian.list bookworm main\ndeb http://snap.invalid/archive/debian/20250520T000000Z/ bookworm main\n",
        dir.path().display()
    );
    fs::write(dir.path().join("sources.list"), list).unwrap();
    let text = for_image(&of_host(dir.path(), "bookworm").stanzas);
    assert!(text.contains("URIs: http://first.invalid/debian\n"), "{text}");
    assert!(text.contains("URIs: http://snap.invalid/archive/debian/20250520T000000Z/\n"), "{text}");
}

#[test]
fn a_key_inside_a_stanza_is_kept_for_the_bootstrap() {
    let with_key = DEB822.replace(
        "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg",
        "Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n -----END PGP PUBLIC KEY BLOCK-----",
    );
    let found = of_host(host(&[("sources.list.d/debian.sources", &with_key)]).path(), "bookworm").stanzas;
    assert!(for_bootstrap(&found).contains("Signed-By: \n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n"));
}

#[test]
fn what_cannot_be_read_is_passed_over_and_named() {
    let dir = host(&[("sources.list.d/debian.sources", DEB822)]);
    let more = dir.path().join("sources.list.d");
    // Root reads everything; a file that is too large fails for everybody.
    fs::write(more.join("huge.list"), vec![b'#'; usize::try_from(MAX_FILE).unwrap() + 1]).unwrap();
    fs::create_dir(more.join("dir.list")).unwrap();
    let HostSources { stanzas, unread } = of_host(dir.path(), "bookworm");
    assert_eq!(stanzas.len(), 2);
    let [unread] = &unread[..] else { panic!("{unread:?}") };
    assert_eq!(unread.path, more.join("huge.list"));
    assert!(unread.to_string().contains("is over 1 MiB"), "{unread}");
    // Nothing is left to read.
    fs::remove_dir_all(&more).unwrap();
    fs::write(&more, "").unwrap();
    let HostSources { stanzas, unread } = of_host(dir.path(), "bookworm");
    assert!(stanzas.is_empty());
    assert_eq!(unread.iter().map(|unread| &*unread.path).collect::<Vec<_>>(), [more.join("*.sources")]);
}

#[test]
fn debians_own_security_archive_needs_no_path() {
    let security = "deb http://security.debian.org bookworm-security main\n\
                    deb https://security.debian.org/ bookworm-security main\n\
                    deb http://security.debian.org.invalid bookworm-security main\n";
    let text = image(&[("sources.list", security)], "bookworm");
    assert_eq!(text.matches("Suites: bookworm-security").count(), 2, "{text}");
    assert!(!text.contains("invalid"), "{text}");
}
