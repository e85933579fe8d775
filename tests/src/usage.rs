//! What a process has used.

use std::io;
use std::process::Child;

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
