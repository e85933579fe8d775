//! What a process has used.

use std::io;
use std::process::{Child, ExitStatus};
use std::time::Duration;

/// Waits for a process, looking again and again at what it has used: how it ended, and the most
/// memory that it had since it became its program, in KiB. Nothing of its parent's is in it, as it
/// is in what [`wait`] says; what it takes in its last milliseconds may be missed.
pub fn watch(child: &mut Child) -> io::Result<(ExitStatus, u64)> {
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        let used = std::fs::read_to_string(&status).unwrap_or_default();
        let used = used.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let used = used.and_then(|kib| kib.trim().trim_end_matches(" kB").parse().ok());
        peak = used.unwrap_or(0).max(peak);
        if let Some(ended) = child.try_wait()? {
            return Ok((ended, peak));
        }
        std::thread::sleep(LOOK);
    }
}

/// From one look at a process to the next.
const LOOK: Duration = Duration::from_millis(2);

/// Waits for a process that nobody else waits for: how it ended (as `wait(2)` has it), and the most
/// memory that it had, in KiB.
pub fn wait(child: &Child) -> io::Result<(i32, i64)> {
    let (mut status, mut usage) = (0, std::mem::MaybeUninit::<libc::rusage>::zeroed());
    // SAFETY: both pointers are to locals of the right types, and nothing else waits for this
    // child. The standard library has no way to ask for a child's memory.
    let waited =
        unsafe { libc::wait4(child.id().cast_signed(), &mut status, 0, usage.as_mut_ptr()) };
    if waited != child.id().cast_signed() {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all zeros is a value of this type, and the call above has filled it in.
    Ok((status, unsafe { usage.assume_init() }.ru_maxrss))
}
