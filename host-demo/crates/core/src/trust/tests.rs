use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use proptest::prelude::*;

use super::*;

const USER: u32 = 1000;
const OTHER: u32 = 2000;
const GROUP: u32 = 1000;
const SHARED_GROUP: u32 = 50;

fn user() -> User {
    User {
        uid: USER,
        own_group: Some(GROUP),
    }
}

fn component(path: &str, uid: u32, mode: u32) -> Component {
    of_group(path, uid, SHARED_GROUP, mode)
}

fn of_group(path: &str, uid: u32, gid: u32, mode: u32) -> Component {
    let kind = match path.rsplit('/').next() {
        Some("file") => Kind::File,
        Some("link") => Kind::Link,
        _ => Kind::Folder,
    };
    Component {
        path: path.into(),
        uid,
        gid,
        mode,
        kind,
        has_acl: false,
        inode: (0, 0),
    }
}

fn root() -> Component {
    component("/", ROOT, 0o755)
}

/// Decides about a file in a folder.
fn in_folder(folder: Component, file: Component) -> Result<(), Distrust> {
    decide(&[root(), folder, file], &user(), Depth::Closed)
}

#[test]
fn files_of_the_user_and_root_are_trusted() {
    for owner in [USER, ROOT] {
        for above in [USER, ROOT] {
            let folder = component("/a", above, 0o755);
            in_folder(folder, component("/a/file", owner, 0o644)).unwrap();
        }
    }
    let folder = component("/a", USER, 0o755);
    let foreign = in_folder(folder, component("/a/file", OTHER, 0o600)).unwrap_err();
    assert_eq!(
        foreign.to_string(),
        "/a/file belongs to another user (uid 2000), who may have changed it. Check it, then, as \
         root: chown -h 1000 /a/file"
    );
    let folder = component("/a", OTHER, 0o755);
    let foreign = in_folder(folder, component("/a/file", USER, 0o600)).unwrap_err();
    assert!(foreign.to_string().ends_with("chown -h 1000 /a"));
}

#[test]
fn what_others_can_write_to_is_rejected() {
    for mode in [0o602, 0o620, 0o666] {
        let folder = component("/a", USER, 0o700);
        let error = in_folder(folder, component("/a/file", USER, mode)).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "other users can write to /a/file (mode {mode:04o}) and may have changed it. Check \
                 it, then: chmod go-w /a/file"
            )
        );
    }
    let folder = component("/a", ROOT, 0o777);
    let error = in_folder(folder, component("/a/file", USER, 0o600)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "other users can write to /a (mode 0777) and may have changed what is in it. Check it, \
         then, as root: chmod go-w /a"
    );
}

#[test]
fn a_sticky_folder_passes_if_the_next_component_is_owned() {
    let sticky = || component("/a", ROOT, 0o1777);
    in_folder(sticky(), component("/a/file", USER, 0o600)).unwrap();
    in_folder(sticky(), component("/a/file", ROOT, 0o600)).unwrap();
    let foreign = in_folder(sticky(), component("/a/file", OTHER, 0o644));
    assert!(matches!(foreign, Err(Distrust::Owner { .. })));
    // Its own owner can replace everything in it.
    let foreign = component("/a", OTHER, 0o1777);
    let foreign = in_folder(foreign, component("/a/file", USER, 0o644));
    assert!(matches!(foreign, Err(Distrust::Owner { .. })));
    // What is to be created in it can be created by others before.
    let itself = decide(&[root(), sticky()], &user(), Depth::Closed);
    assert_eq!(itself, Err(Distrust::Shared("/a".into())));
}

#[test]
fn the_check_stops_at_a_closed_folder() {
    let walk = [
        root(),
        component("/open", ROOT, 0o777),
        component("/open/closed", USER, 0o700),
        component("/open/closed/file", USER, 0o600),
    ];
    decide(&walk, &user(), Depth::Closed).unwrap();
    let to_the_root = decide(&walk, &user(), Depth::Root).unwrap_err();
    assert!(matches!(to_the_root, Distrust::Writable { path, .. } if path == Path::new("/open")));
    // Other users can enter it and reach its entries.
    let mut walk = walk;
    walk[2].mode = 0o711;
    decide(&walk, &user(), Depth::Closed).unwrap_err();
    walk[2].mode = 0o710;
    decide(&walk, &user(), Depth::Closed).unwrap_err();
    walk[2].gid = GROUP;
    decide(&walk, &user(), Depth::Closed).unwrap();
    walk[2].uid = OTHER;
    decide(&walk, &user(), Depth::Closed).unwrap_err();
}

#[test]
fn a_link_and_its_target_are_checked() {
    let walk = |owner, around, target| {
        [
            root(),
            component("/links", ROOT, around),
            component("/links/link", owner, 0o777),
            component("/home", ROOT, 0o755),
            component("/home/closed", USER, 0o700),
            component("/home/closed/file", USER, target),
        ]
    };
    let decide = |walk: [Component; 6]| decide(&walk, &user(), Depth::Closed);
    decide(walk(USER, 0o755, 0o600)).unwrap();
    decide(walk(ROOT, 0o1777, 0o600)).unwrap();
    assert!(matches!(
        decide(walk(OTHER, 0o1777, 0o600)),
        Err(Distrust::Owner { path, .. }) if path == Path::new("/links/link")
    ));
    assert!(matches!(
        decide(walk(USER, 0o777, 0o600)),
        Err(Distrust::Writable { path, .. }) if path == Path::new("/links")
    ));
    assert!(matches!(
        decide(walk(USER, 0o755, 0o666)),
        Err(Distrust::Writable { path, .. }) if path == Path::new("/home/closed/file")
    ));
}

#[test]
fn a_projected_volume_of_kubernetes_passes() {
    let walk = [
        root(),
        component("/run", ROOT, 0o755),
        component("/run/volume", ROOT, 0o1777),
        component("/run/volume/link", ROOT, 0o777),
        component("/run/volume/..data/link", ROOT, 0o777),
        component("/run/volume/..2026", ROOT, 0o755),
        component("/run/volume/..2026/file", ROOT, 0o640),
    ];
    decide(&walk, &user(), Depth::Closed).unwrap();
}

#[test]
fn a_group_of_the_user_alone_counts_as_the_user() {
    let folder = || of_group("/a", USER, GROUP, 0o775);
    in_folder(folder(), of_group("/a/file", USER, GROUP, 0o664)).unwrap();
    in_folder(folder(), of_group("/a/file", USER, GROUP, 0o666)).unwrap_err();
    in_folder(folder(), component("/a/file", USER, 0o664)).unwrap_err();
    // What an access control list grants shows in the group's permissions.
    let mut with_list = of_group("/a/file", USER, GROUP, 0o664);
    with_list.has_acl = true;
    in_folder(folder(), with_list).unwrap_err();
}

#[test]
fn a_group_has_the_members_that_both_files_list() {
    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n\
                          bob:x:1001:1001::/home/bob:/bin/sh\nthis is not an entry\n";
    let own_group = |passwd: &str, group: &str, uid| {
        let accounts = Accounts::parse(&format!("{PASSWD}{passwd}"), group);
        accounts.user(uid).own_group
    };
    for group in ["ann:x:1000:", "ann:x:1000:ann", "a:b\nann:x:1000:ann\n"] {
        assert_eq!(own_group("", group, 1000), Some(1000), "{group}");
    }
    for (passwd, group, why) in [
        ("", "ann:x:1000:ann,bob", "another member"),
        ("", "ann:x:1000:nobody", "a member who is not listed"),
        (
            "eve:x:1002:1000::/:",
            "ann:x:1000:",
            "another's primary group",
        ),
        ("", "ann:x:1000:\nteam:x:1000:bob", "two names of one group"),
        (
            "",
            "users:x:1000:",
            "a group of a directory service's users",
        ),
        ("", "bob:x:1001:", "no entry"),
        ("", "", "no file"),
    ] {
        assert_eq!(own_group(passwd, group, 1000), None, "{why}");
    }
    // In containers users often have no entry.
    assert_eq!(own_group("", "root:x:0:\nann:x:1000:", 4711), None);
    assert_eq!(own_group("", "root:x:0:", 0), Some(0));
}

/// What another user can do: by ownership and permissions, without privileges.
struct Attacker<'a> {
    walk: &'a [Component],
}

impl Attacker<'_> {
    fn may(&self, component: &Component, permission: u32) -> bool {
        // The attacker is in the shared group. An owner can change the permissions.
        let class = match (component.uid == OTHER, component.gid == SHARED_GROUP) {
            (true, _) => return true,
            (_, true) => permission << 3,
            _ => permission,
        };
        component.mode & class != 0
    }

    fn can_change_the_last(&self) -> bool {
        let (last, folders) = self.walk.split_last().unwrap();
        if last.uid == OTHER {
            return true;
        }
        let mut is_reached = true;
        for (at, folder) in folders.iter().enumerate() {
            is_reached &= self.may(folder, 1);
            let next = &self.walk[at + 1];
            let is_kept = folder.mode & STICKY != 0 && folder.uid != OTHER && next.uid != OTHER;
            if is_reached && self.may(folder, 2) && !is_kept {
                return true;
            }
        }
        is_reached && self.may(last, 2)
    }
}

fn any_component() -> impl Strategy<Value = (u32, u32, u32)> {
    let mode = prop_oneof![0o700..0o1000u32, Just(0o755), Just(0o700), Just(0o1777)];
    let owner = prop_oneof![4 => Just(USER), 4 => Just(ROOT), 1 => Just(OTHER)];
    let group = prop_oneof![Just(GROUP), Just(SHARED_GROUP)];
    (owner, group, mode)
}

proptest! {
    #[test]
    fn what_another_user_can_change_is_never_trusted(
        parts in proptest::collection::vec(any_component(), 1..5)
    ) {
        let mut walk = vec![root()];
        let mut path = String::new();
        for (at, (uid, gid, mode)) in parts.iter().copied().enumerate() {
            path.push_str(if at + 1 == parts.len() { "/file" } else { "/a" });
            walk.push(of_group(&path, uid, gid, mode));
        }
        let decided = decide(&walk, &user(), Depth::Root);
        if (Attacker { walk: &walk }).can_change_the_last() {
            prop_assert!(decided.is_err());
        }
        // What is trusted up to the root is trusted up to a closed folder.
        if decided.is_ok() {
            prop_assert_eq!(decide(&walk, &user(), Depth::Closed), Ok(()));
        }
    }
}

fn change(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn check(path: &Path) -> Result<(), Distrust> {
    decide(&walk(path).unwrap(), &User::current(), Depth::Closed)
}

fn euid() -> u32 {
    rustix::process::geteuid().as_raw()
}

#[test]
fn a_path_is_read_as_the_system_resolves_it() {
    let folder = tempfile::tempdir().unwrap();
    let real = folder.path().canonicalize().unwrap();
    std::fs::create_dir_all(real.join("a/b")).unwrap();
    std::fs::write(real.join("a/b/file"), "").unwrap();
    symlink("a/b", real.join("relative")).unwrap();
    symlink(real.join("relative/../b"), real.join("absolute")).unwrap();
    symlink("loop", real.join("loop")).unwrap();
    let end = real.join("a/b/file");
    for path in [
        "a/b/file",
        "relative/file",
        "absolute/file",
        "absolute/../b/./file",
    ] {
        let found = walk(&real.join(path)).unwrap();
        assert_eq!(found.last().unwrap().path, end, "{path}");
        let links = found.iter().filter(|c| c.kind == Kind::Link).count();
        let expected = match path {
            "a/b/file" => 0,
            "relative/file" => 1,
            _ => 2,
        };
        assert_eq!(links, expected, "{path}");
        for component in &found {
            for above in component.path.ancestors().skip(1) {
                assert!(found.iter().any(|c| c.path == above), "{above:?}");
            }
        }
    }
    assert_eq!(
        walk(&real.join("a/b/..")).unwrap().last().unwrap().path,
        real.join("a")
    );
    assert_eq!(
        walk(Path::new("/..")).unwrap().last().unwrap().path,
        Path::new("/")
    );
    walk(&real.join("loop")).unwrap_err();
    let gone = walk(&real.join("a/none/file")).unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
}

#[test]
fn files_of_another_user_are_rejected() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    check(&file).unwrap();
    let reader = match euid() {
        // Root's files are trusted by everyone, so they are given away.
        0 => {
            chown(&file, Some(OTHER), None).unwrap();
            User::current()
        }
        // For a user with another uid, the files of this user belong to another user.
        own => User {
            uid: own + 1,
            own_group: None,
        },
    };
    let error = decide(&walk(&file).unwrap(), &reader, Depth::Closed).unwrap_err();
    assert!(matches!(error, Distrust::Owner { path, .. } if path.ends_with("file")));
}

/// Runs a test of this file as a user without privileges, if it runs as root. Returns whether this is
/// that user.
fn is_unprivileged(test: &str) -> bool {
    const NOBODY: u32 = 65534;

    if euid() != 0 {
        return true;
    }
    let folder = tempfile::tempdir().unwrap();
    change(folder.path(), 0o755);
    let own = folder.path().join("own");
    std::fs::create_dir(&own).unwrap();
    change(&own, 0o755);
    chown(&own, Some(NOBODY), Some(NOBODY)).unwrap();
    // The folders of this program may be closed to that user.
    let program = folder.path().join("tests");
    // Copied by another process: a file that this one has open for writing could not be run as long as a
    // child that another test starts has it too.
    let mut copy = Command::new("cp");
    copy.arg(std::env::current_exe().unwrap()).arg(&program);
    assert!(copy.status().unwrap().success());
    let ran = Command::new(&program)
        .args(["--exact", &format!("trust::tests::{test}"), "--nocapture"])
        .current_dir("/")
        // The usual one may be another user's.
        .env("TMPDIR", own)
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(
        ran.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    false
}

#[test]
fn a_user_without_privileges_can_use_tmp() {
    if !is_unprivileged("a_user_without_privileges_can_use_tmp") {
        return;
    }
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    change(&file, 0o600);
    // Open, so that the folder above it counts.
    change(folder.path(), 0o755);
    let found = walk(&file).unwrap();
    let is_shared = |c: &Component| c.mode & 0o1002 == 0o1002 && c.uid == ROOT;
    assert!(
        found.iter().any(is_shared),
        "/tmp is a root-owned sticky folder"
    );
    check(&file).unwrap();
    check(Path::new("/etc/passwd")).unwrap();
    assert!(matches!(check(Path::new("/tmp")), Err(Distrust::Shared(_))));

    change(folder.path(), 0o777);
    assert!(matches!(check(&file), Err(Distrust::Writable { .. })));
    let inner = folder.path().join("inner");
    std::fs::create_dir(&inner).unwrap();
    let file = inner.join("file");
    std::fs::write(&file, "").unwrap();
    change(&file, 0o600);
    change(&inner, 0o700);
    check(&file).unwrap();
}

#[test]
fn a_user_without_privileges_can_use_a_projected_volume() {
    if !is_unprivileged("a_user_without_privileges_can_use_a_projected_volume") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let volume = folder.path().join("volume");
    let data = volume.join("..2026_01_01");
    std::fs::create_dir_all(&data).unwrap();
    change(&data, 0o755);
    std::fs::write(data.join("token"), "").unwrap();
    change(&data.join("token"), 0o644);
    symlink("..2026_01_01", volume.join("..data")).unwrap();
    symlink("..data/token", volume.join("token")).unwrap();
    change(&volume, 0o1777);
    change(folder.path(), 0o755);
    check(&volume.join("token")).unwrap();
    change(&volume, 0o777);
    check(&volume.join("token")).unwrap_err();
}

#[test]
fn a_user_without_privileges_can_have_umask_002() {
    if !is_unprivileged("a_user_without_privileges_can_have_umask_002") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    change(folder.path(), 0o775);
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    change(&file, 0o664);
    let found = walk(&file).unwrap();
    let gid = found.last().unwrap().gid;
    let passwd = format!("me:x:{}:{gid}::/:/bin/sh", euid());
    let decide = |group: &str| {
        let user = Accounts::parse(&passwd, group).user(euid());
        decide(&found, &user, Depth::Closed)
    };
    decide(&format!("me:x:{gid}:")).unwrap();
    decide(&format!("me:x:{gid}:another")).unwrap_err();
}
