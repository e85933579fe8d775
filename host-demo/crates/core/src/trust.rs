//! Decides whether a file or folder can be trusted: no other user of this machine could have written it.
//!
//! The owner is the user or root, and nobody else can write to it. The same holds for each folder
//! above it and for each symbolic link on the way, because a user who can write to a folder can replace
//! its entries. [`decide`] is the decision, over what [`walk`] reads from the disk.
//!
//! - In a sticky folder (`/tmp`, a projected volume of Kubernetes) users replace only what they own.
//!   It passes as a folder above, since the owner of what is in it is checked.
//! - A group of the user's name whose only member is the user counts as the user ([`Accounts`]).
//! - Access control lists are not read. Where one lets others write, Linux shows it in the file's group
//!   permissions, so those count for a file with a list even if the group is the user's own.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::Metadata;
use std::io::{Error, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::shell::Shell;

const ROOT: u32 = 0;
const STICKY: u32 = 0o1000;

/// Follows no more symbolic links than Linux does in one path.
const LINKS_MAX: usize = 40;

/// What a part of a path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A folder.
    Folder,
    /// A symbolic link.
    Link,
    /// A file, or anything else.
    File,
}

/// A file, folder or link on the way to a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Component {
    /// Its path, without symbolic links in the folders above it.
    pub path: PathBuf,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its permissions, with the sticky bit.
    pub mode: u32,
    /// What it is.
    pub kind: Kind,
    /// Whether it has an access control list.
    pub has_acl: bool,
    /// The device and the number of its inode.
    pub inode: (u64, u64),
}

impl Component {
    fn new(path: PathBuf, found: &Metadata) -> Self {
        let kind = match found.file_type() {
            kind if kind.is_dir() => Kind::Folder,
            kind if kind.is_symlink() => Kind::Link,
            _ => Kind::File,
        };
        Self {
            has_acl: kind != Kind::Link && has_acl(&path),
            path,
            uid: found.uid(),
            gid: found.gid(),
            mode: found.mode(),
            kind,
            inode: (found.dev(), found.ino()),
        }
    }
}

/// How far up the folders above a path are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Up to a folder that nobody else can enter. Other users may be able to move that folder away,
    /// but what they put in its place belongs to them.
    Closed,
    /// Up to the root, for what is opened later by its path alone.
    Root,
}

/// Why a file or folder is not trusted, and what fixes it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Distrust {
    /// The owner is neither the user nor root.
    #[error(
        "{path} belongs to another user (uid {uid}), who may have changed it. Check it, then, as \
         root: chown -h {user} {quoted}",
        path = .path.display(),
        quoted = quote(.path)
    )]
    Owner {
        /// What belongs to another user.
        path: PathBuf,
        /// Its owner.
        uid: u32,
        /// Who should own it.
        user: u32,
    },
    /// Other users have the permission to write.
    #[error(
        "other users can write to {path} (mode {mode:04o}) and may have changed {it}. Check it, \
         then{as_root}: chmod go-w {quoted}",
        path = .path.display(),
        it = match .kind { Kind::Folder => "what is in it", Kind::Link | Kind::File => "it" },
        as_root = match .is_roots { true => ", as root", false => "" },
        quoted = quote(.path)
    )]
    Writable {
        /// What others can write to.
        path: PathBuf,
        /// What it is.
        kind: Kind,
        /// Its permissions.
        mode: u32,
        /// Whether root alone can change the permissions.
        is_roots: bool,
    },
    /// A shared folder such as `/tmp`, where a folder of the user's own is needed.
    #[error("every user can create files in {}; use a folder of your own", .0.display())]
    Shared(PathBuf),
    /// A symbolic link in a folder that has none.
    #[error("{} is a symbolic link", .0.display())]
    Link(PathBuf),
}

fn quote(path: &Path) -> String {
    Shell::Posix.quote(&path.display().to_string())
}

/// The user who trusts files, and the groups that nobody else is in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    uid: u32,
    own_group: Option<u32>,
}

impl User {
    /// The user of this process.
    pub fn current() -> Self {
        let read = |file| std::fs::read_to_string(file).unwrap_or_default();
        let accounts = Accounts::parse(&read("/etc/passwd"), &read("/etc/group"));
        accounts.user(rustix::process::geteuid().as_raw())
    }

    fn trusts(&self, uid: u32) -> bool {
        uid == self.uid || uid == ROOT
    }

    /// Whether other users have one of these permissions (`0o2` to write, `0o1` to enter).
    fn is_open(&self, component: &Component, permission: u32) -> bool {
        let is_own = self.own_group == Some(component.gid) && !component.has_acl;
        let group = match is_own {
            true => 0,
            false => permission << 3,
        };
        component.mode & (permission | group) != 0
    }
}

/// The entries of `/etc/passwd` and `/etc/group`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accounts {
    /// Name, uid and gid of each user.
    users: Vec<(String, u32, u32)>,
    /// Name, gid and further members of each group.
    groups: Vec<(String, u32, Vec<String>)>,
}

impl Accounts {
    /// Reads both files; lines of another form are skipped.
    pub fn parse(passwd: &str, group: &str) -> Self {
        let user = |line: &str| {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _, uid, gid, ..] = fields[..] else {
                return None;
            };
            Some((name.to_owned(), uid.parse().ok()?, gid.parse().ok()?))
        };
        let group_of = |line: &str| {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _, gid, members, ..] = fields[..] else {
                return None;
            };
            let members = members.split(',').filter(|name| !name.is_empty());
            let members = members.map(str::to_owned).collect();
            Some((name.to_owned(), gid.parse().ok()?, members))
        };
        Self {
            users: passwd.lines().filter_map(user).collect(),
            groups: group.lines().filter_map(group_of).collect(),
        }
    }

    /// The user with this uid, with their primary group if it has their name and nobody else is in it.
    ///
    /// Users of a directory service are not listed in these files, but can be in a group of them, such as
    /// `users`: therefore the name. A user or group that is not in these files has no own group here.
    pub fn user(&self, uid: u32) -> User {
        let is_user = |name: &str| {
            self.users
                .iter()
                .any(|user| user.0 == name && user.1 == uid)
        };
        let primary = self.users.iter().find(|user| user.1 == uid);
        let own_group = primary.map(|user| user.2).filter(|gid| {
            let mut listed = self
                .groups
                .iter()
                .filter(|group| group.1 == *gid)
                .peekable();
            listed.peek().is_some()
                && listed.all(|group| is_user(&group.0) && group.2.iter().all(|name| is_user(name)))
                && self
                    .users
                    .iter()
                    .all(|user| user.2 != *gid || user.1 == uid)
        });
        User { uid, own_group }
    }
}

/// Decides whether the last component, and each link before it, is trusted by the user.
///
/// The components are those of [`walk`]: for each, the folders above it come before it.
pub fn decide(components: &[Component], user: &User, depth: Depth) -> Result<(), Distrust> {
    let last = components.len().saturating_sub(1);
    for (at, end) in components.iter().enumerate() {
        if at != last && end.kind != Kind::Link {
            continue;
        }
        check(end, user, false)?;
        if depth == Depth::Closed && is_closed(end, user) {
            continue;
        }
        for path in end.path.ancestors().skip(1) {
            let Some(folder) = components.iter().find(|other| other.path == path) else {
                continue;
            };
            check(folder, user, true)?;
            if depth == Depth::Closed && is_closed(folder, user) {
                break;
            }
        }
    }
    Ok(())
}

fn check(component: &Component, user: &User, is_above: bool) -> Result<(), Distrust> {
    let path = || component.path.clone();
    if !user.trusts(component.uid) {
        return Err(Distrust::Owner {
            path: path(),
            uid: component.uid,
            user: user.uid,
        });
    }
    // The permissions of a link mean nothing.
    if component.kind == Kind::Link || !user.is_open(component, 0o2) {
        return Ok(());
    }
    let is_sticky = component.kind == Kind::Folder && component.mode & STICKY != 0;
    match (is_sticky, is_above) {
        (true, true) => Ok(()),
        (true, false) => Err(Distrust::Shared(path())),
        (false, _) => Err(Distrust::Writable {
            path: path(),
            kind: component.kind,
            mode: component.mode & 0o7777,
            is_roots: component.uid != user.uid,
        }),
    }
}

/// Whether a file or folder has an access control list. Elsewhere than on Linux it is not known.
fn has_acl(path: &Path) -> bool {
    #[cfg(target_os = "linux")]
    return rustix::fs::lgetxattr(path, "system.posix_acl_access", &mut [0_u8; 0]).is_ok();
    #[cfg(not(target_os = "linux"))]
    {
        let _ = path;
        false
    }
}

/// Whether nobody else can reach what is in a folder.
fn is_closed(component: &Component, user: &User) -> bool {
    component.kind == Kind::Folder && !user.is_open(component, 0o1)
}

/// Reads what is on the way to a path as the system resolves it: each folder, each link and what it
/// leads to, and the file or folder itself.
pub fn walk(path: &Path) -> std::io::Result<Vec<Component>> {
    let path = std::path::absolute(path)?;
    let mut left: VecDeque<OsString> = parts(&path);
    let mut real = PathBuf::from("/");
    let mut found = vec![look_at(real.clone())?];
    let mut links = 0;
    while let Some(part) = left.pop_front() {
        if part == ".." {
            real.pop();
        } else {
            let component = look_at(real.join(&part))?;
            if component.kind == Kind::Link {
                links += 1;
                if links > LINKS_MAX {
                    return Err(Error::new(
                        ErrorKind::InvalidInput,
                        "too many symbolic links",
                    ));
                }
                let target = std::fs::read_link(&component.path)?;
                if target.is_absolute() {
                    real = PathBuf::from("/");
                }
                for part in parts(&target).into_iter().rev() {
                    left.push_front(part);
                }
            } else {
                real.clone_from(&component.path);
            }
            found.push(component);
        }
    }
    // After `..` or a link to `/`, the last one that was found is not where the path leads.
    if found.last().is_none_or(|last| last.path != real) {
        found.push(look_at(real)?);
    }
    Ok(found)
}

/// Checks a folder and all that is in it, where nothing but files and folders may be.
pub fn check_tree(folder: &Path, user: &User) -> std::io::Result<Result<(), Distrust>> {
    let mut left = vec![folder.to_owned()];
    while let Some(path) = left.pop() {
        let component = look_at(path)?;
        if let Err(distrust) = check(&component, user, false) {
            return Ok(Err(distrust));
        }
        match component.kind {
            Kind::File => {}
            Kind::Link => return Ok(Err(Distrust::Link(component.path))),
            Kind::Folder => {
                for entry in std::fs::read_dir(&component.path)? {
                    left.push(entry?.path());
                }
            }
        }
    }
    Ok(Ok(()))
}

fn parts(path: &Path) -> VecDeque<OsString> {
    use std::path::Component::{Normal, ParentDir};

    let parts = path.components().filter_map(|part| match part {
        Normal(name) => Some(name.to_owned()),
        ParentDir => Some(OsString::from("..")),
        _ => None,
    });
    parts.collect()
}

fn look_at(path: PathBuf) -> std::io::Result<Component> {
    let found = std::fs::symlink_metadata(&path)?;
    Ok(Component::new(path, &found))
}

#[cfg(test)]
mod tests;
