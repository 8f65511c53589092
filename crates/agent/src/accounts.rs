//! Parses `/etc/passwd` and `/etc/group`.
//!
//! The agent is linked statically, and the C library's own look-ups (`getpwnam`, `getgrouplist`, …) would load NSS
//! modules of whatever libc the image has. So only these two files count.

use std::path::Path;

/// Most bytes of a passwd or group file that are read; the rest is ignored.
const MAX_FILE: u64 = 4 << 20;

/// User and groups that a command runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) name: Option<String>,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
    pub(crate) shell: String,
}

/// Error for a user or group that does not exist.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AccountError {
    #[error("no user {0:?} in the guest's /etc/passwd")]
    NoUser(String),
    #[error("no group {0:?} in the guest's /etc/group")]
    NoGroup(String),
}

/// Content of the two files.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    passwd: String,
    group: String,
}

struct PasswdLine<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
    shell: &'a str,
}

impl Accounts {
    /// Reads the files below `etc`; a missing or unreadable one is empty.
    pub(crate) fn read(etc: &Path) -> Self {
        let text = |name: &str| {
            use std::io::Read;
            let mut bytes = Vec::new();
            if let Ok(file) = std::fs::File::open(etc.join(name)) {
                let _ = file.take(MAX_FILE).read_to_end(&mut bytes);
            }
            String::from_utf8_lossy(&bytes).into_owned()
        };
        Self { passwd: text("passwd"), group: text("group") }
    }

    /// Builds the accounts of a passwd file alone.
    #[cfg(test)]
    pub(crate) fn of(passwd: &str) -> Self {
        Self { passwd: passwd.to_owned(), group: String::new() }
    }

    /// Resolves `name`, `uid`, `name:group` or `uid:gid`, as Docker does: a number without an entry is that number with
    /// group 0, and an explicit group replaces all others.
    pub(crate) fn resolve(&self, spec: &str) -> Result<Account, AccountError> {
        let (user, group) = match spec.split_once(':') {
            Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
            None => (spec, None),
        };
        let number = user.parse::<u32>().ok();
        let line =
            self.users().find(|line| line.name == user).or_else(|| self.users().find(|line| Some(line.uid) == number));
        let mut account = match (line, number) {
            (Some(line), _) => Account {
                name: Some(line.name.to_owned()),
                uid: line.uid,
                gid: line.gid,
                groups: self.groups_of(line.name, line.gid),
                home: if line.home.is_empty() { "/" } else { line.home }.to_owned(),
                shell: if line.shell.is_empty() { "/bin/sh" } else { line.shell }.to_owned(),
            },
            (None, Some(uid)) => Account {
                name: None,
                uid,
                gid: 0,
                groups: vec![0],
                home: if uid == 0 { "/root" } else { "/" }.to_owned(),
                shell: "/bin/sh".to_owned(),
            },
            // An image without /etc/passwd still has root.
            (None, None) if user == "root" => return Account::root().with_group(self, group),
            (None, None) => return Err(AccountError::NoUser(user.to_owned())),
        };
        account = account.with_group(self, group)?;
        Ok(account)
    }

    fn gid(&self, group: &str) -> Result<u32, AccountError> {
        self.groups()
            .find(|(name, _, _)| *name == group)
            .map(|(_, gid, _)| gid)
            .or_else(|| group.parse().ok())
            .ok_or_else(|| AccountError::NoGroup(group.to_owned()))
    }

    fn groups_of(&self, user: &str, primary: u32) -> Vec<u32> {
        let mut groups = vec![primary];
        for (_, gid, members) in self.groups() {
            if members.split(',').any(|member| member == user) && !groups.contains(&gid) {
                groups.push(gid);
            }
        }
        groups
    }

    fn users(&self) -> impl Iterator<Item = PasswdLine<'_>> {
        self.passwd.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let (name, _password) = (fields.next()?, fields.next()?);
            let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
            let (_comment, home) = (fields.next()?, fields.next()?);
            Some(PasswdLine { name, uid, gid, home, shell: fields.next().unwrap_or_default() })
        })
    }

    fn groups(&self) -> impl Iterator<Item = (&str, u32, &str)> {
        self.group.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let (name, _password) = (fields.next()?, fields.next()?);
            Some((name, fields.next()?.parse().ok()?, fields.next().unwrap_or_default()))
        })
    }
}

impl Account {
    /// Returns root without regard to the files.
    pub(crate) fn root() -> Self {
        Self {
            name: Some("root".to_owned()),
            uid: 0,
            gid: 0,
            groups: vec![0],
            home: "/root".to_owned(),
            shell: "/bin/sh".to_owned(),
        }
    }

    fn with_group(mut self, accounts: &Accounts, group: Option<&str>) -> Result<Self, AccountError> {
        if let Some(group) = group {
            self.gid = accounts.gid(group)?;
            self.groups = vec![self.gid];
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd: "root:x:0:0:root:/root:/bin/bash\nbroken\nu:x:1000:100:U,,,:/home/u:\n7:x:70:70::/seven:/bin/sh\n"
                .to_owned(),
            group: "root:x:0:\nusers:x:100:\nsudo:x:27:u,v\ndocker:x:999:v,u\nbad\n".to_owned(),
        }
    }

    #[test]
    fn a_user_has_all_its_groups() {
        let account = accounts().resolve("u").unwrap();
        assert_eq!((account.uid, account.gid, account.groups), (1000, 100, vec![100, 27, 999]));
        assert_eq!((account.home.as_str(), account.shell.as_str()), ("/home/u", "/bin/sh"));
        assert_eq!(accounts().resolve("1000").unwrap().name.as_deref(), Some("u"));
    }

    #[test]
    fn a_named_group_is_the_only_one() {
        let account = accounts().resolve("u:sudo").unwrap();
        assert_eq!((account.gid, account.groups), (27, vec![27]));
        assert_eq!(accounts().resolve("u:5").unwrap().gid, 5);
        assert_eq!(accounts().resolve("0:0").unwrap().gid, 0);
    }

    #[test]
    fn a_number_without_entry_is_that_number() {
        let account = accounts().resolve("4242").unwrap();
        assert_eq!((account.uid, account.gid, account.home.as_str()), (4242, 0, "/"));
    }

    #[test]
    fn a_name_made_of_digits_comes_before_the_number() {
        assert_eq!(accounts().resolve("7").unwrap().uid, 70);
    }

    #[test]
    fn what_does_not_exist_is_named() {
        assert_eq!(accounts().resolve("nope").unwrap_err(), AccountError::NoUser("nope".into()));
        assert_eq!(accounts().resolve("u:nope").unwrap_err(), AccountError::NoGroup("nope".into()));
        assert_eq!(accounts().resolve("").unwrap_err(), AccountError::NoUser(String::new()));
    }

    #[test]
    fn root_needs_no_file() {
        assert_eq!(Accounts::default().resolve("root").unwrap(), Account::root());
        assert_eq!(Accounts::default().resolve("0").unwrap().home, "/root");
    }

    proptest::proptest! {
        #[test]
        fn any_text_parses(passwd: String, group: String, spec: String) {
            let _ = Accounts { passwd, group }.resolve(&spec);
        }
    }
}
