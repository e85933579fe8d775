//! What a process has used.

use std::io;
use std::process::{Child, ExitStatus};
use std::time::Duration;

/// What a process has used, since it became its program.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// How it ended.
    pub status: ExitStatus,
    /// The most memory that it had, in KiB.
    pub peak: u64,
    /// The processor's time that it took.
    pub cpu: Duration,
}

/// Waits for a process, looking again and again at what it has used. Nothing of its parent's is in
/// it, as it is in what [`wait`] says; what it takes in its last milliseconds may be missed.
pub fn watch(child: &mut Child) -> io::Result<Usage> {
    let status = format!("/proc/{}/status", child.id());
    let stat = format!("/proc/{}/stat", child.id());
    let (mut peak, mut cpu) = (0, Duration::ZERO);
    loop {
        let used = std::fs::read_to_string(&stat).unwrap_or_default();
        cpu = cpu_time(&used).unwrap_or_default().max(cpu);
        let used = std::fs::read_to_string(&status).unwrap_or_default();
        let used = used.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let used = used.and_then(|kib| kib.trim().trim_end_matches(" kB").parse().ok());
        peak = used.unwrap_or(0).max(peak);
        if let Some(ended) = child.try_wait()? {
            return Ok(Usage {
                status: ended,
                peak,
                cpu,
            });
        }
        std::thread::sleep(LOOK);
    }
}

/// Of a line of proc(5): fields 14 and 15, in ticks of a hundredth of a second. The second field, a
/// name in parentheses, may have blanks in it.
fn cpu_time(stat: &str) -> Option<Duration> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    let ticks = |n: usize| fields.get(n)?.parse::<u64>().ok();
    Some(Duration::from_millis(10 * (ticks(11)? + ticks(12)?)))
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
