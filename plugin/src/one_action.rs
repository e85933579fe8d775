//! The calls that are answered with one action, through the bindings of one of them.
//!
//! Handing a machine action over takes five kilobytes of code, and the generator of the bindings
//! writes them for each function anew: for four functions, a sixth of what the component may have.
//! They have the same arguments and results, so three of them note which one they are, and go on as
//! the fourth.

use core::sync::atomic::{AtomicU8, Ordering};

use crate::api::Call;
use crate::types::InvalidArgument;

/// Which of the calls it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    Unrestrict,
    Restrict,
    Get,
    Cancel,
}

/// The call that is under way. An instance has one at a time.
static ASKED: AtomicU8 = AtomicU8::new(UNRESTRICT);

const UNRESTRICT: u8 = 0;
const RESTRICT: u8 = 1;
const GET: u8 = 2;
const CANCEL: u8 = 3;

/// Which call is under way, once: whoever does not say so is the release.
pub(crate) fn asked() -> Asked {
    match ASKED.swap(UNRESTRICT, Ordering::Relaxed) {
        RESTRICT => Asked::Restrict,
        GET => Asked::Get,
        CANCEL => Asked::Cancel,
        _ => Asked::Unrestrict,
    }
}

impl Asked {
    /// The call, with its arguments checked.
    pub(crate) fn call(self, id: &str, comment: &str) -> Result<Call<'static>, InvalidArgument> {
        Ok(match self {
            Self::Unrestrict => Call::UnrestrictCodeExecution {
                machine: id.parse()?,
                comment: comment.parse()?,
            },
            Self::Restrict => Call::RestrictCodeExecution {
                machine: id.parse()?,
                comment: comment.parse()?,
            },
            Self::Get => Call::GetMachineAction {
                action: id.parse()?,
            },
            Self::Cancel => Call::CancelMachineAction {
                action: id.parse()?,
                comment: comment.parse()?,
            },
        })
    }
}

/// The exports that `wit_bindgen::generate!` was told to leave out.
#[cfg(target_family = "wasm")]
mod exports {
    #![expect(
        unsafe_code,
        reason = "as the generated bindings, it passes values to and from the host"
    )]

    use super::{ASKED, CANCEL, GET, Ordering, RESTRICT};
    use crate::Plugin;
    use crate::bindings::exports::defender::endpoint::code_execution::{
        __post_return_unrestrict_code_execution as free,
        _export_unrestrict_code_execution_cabi as call,
    };

    #[unsafe(export_name = "defender:endpoint/restriction@0.1.0#restrict-code-execution")]
    unsafe extern "C" fn restrict(id: *mut u8, n: usize, comment: *mut u8, m: usize) -> *mut u8 {
        ASKED.store(RESTRICT, Ordering::Relaxed);
        // SAFETY: both have two texts, handed over by the host in the same way.
        unsafe { call::<Plugin>(id, n, comment, m) }
    }

    #[unsafe(export_name = "defender:endpoint/machine-actions@0.1.0#cancel-machine-action")]
    unsafe extern "C" fn cancel(id: *mut u8, n: usize, comment: *mut u8, m: usize) -> *mut u8 {
        ASKED.store(CANCEL, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { call::<Plugin>(id, n, comment, m) }
    }

    #[unsafe(export_name = "defender:endpoint/machine-actions@0.1.0#get-machine-action")]
    unsafe extern "C" fn get(id: *mut u8, n: usize) -> *mut u8 {
        ASKED.store(GET, Ordering::Relaxed);
        // SAFETY: as above; the second text is empty, which needs no memory.
        unsafe { call::<Plugin>(id, n, core::ptr::dangling_mut(), 0) }
    }

    #[unsafe(export_name = "cabi_post_defender:endpoint/restriction@0.1.0#restrict-code-execution")]
    unsafe extern "C" fn free_restrict(result: *mut u8) {
        // SAFETY: it is the result of `call`, and the host is done with it.
        unsafe { free::<Plugin>(result) }
    }

    #[unsafe(export_name = "cabi_post_defender:endpoint/machine-actions@0.1.0#cancel-machine-action")]
    unsafe extern "C" fn free_cancel(result: *mut u8) {
        // SAFETY: as above.
        unsafe { free::<Plugin>(result) }
    }

    #[unsafe(export_name = "cabi_post_defender:endpoint/machine-actions@0.1.0#get-machine-action")]
    unsafe extern "C" fn free_get(result: *mut u8) {
        // SAFETY: as above.
        unsafe { free::<Plugin>(result) }
    }
}
