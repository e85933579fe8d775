//! The guest of the world `defender:endpoint/plugin`: what `wit/` promises, kept.
//!
//! A call goes one way, and each step has a home:
//!
//! 1. **check** – [`arguments`], [`query`]: what the caller passed becomes a type that cannot be
//!    wrong;
//! 2. **open** – the host is asked for a connection, and [`access`] checks what it gave;
//! 3. **build** – [`api`] makes the one request;
//! 4. **send** – `http`, the only module that touches `wasi:http`;
//! 5. **interpret** – [`api`] again, with [`wire`] for the JSON.
//!
//! All but the fourth step are pure, and run natively as they run in the component. Natively a call
//! into the host panics (there is none), so a native test ends at [`api`].
//!
//! It keeps nothing between two calls, and no input traps it: what the caller, the host or the
//! service says is a value, whatever it is.

#![no_std]
#![deny(missing_docs)]
#![deny(unsafe_code)]
#![allow(
    clippy::result_large_err,
    reason = "the contract's error is a record, returned by value"
)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod access;
pub mod api;
pub mod arguments;
#[cfg(target_family = "wasm")]
mod heap;
mod hints;
mod http;
pub mod query;
mod text;
pub mod wire;

use alloc::string::String;

use api::{Answer, Call, refused_argument};
pub use bindings::defender::endpoint::{connection, types};
pub use bindings::exports::defender::endpoint::machine_actions::{
    MachineActionFilter, MachineActionPage,
};
pub use bindings::exports::defender::endpoint::machines::{FoundMachines, Machine};
use bindings::exports::defender::endpoint::{
    code_execution, machine_actions, machines, restriction,
};
use query::{ActionQuery, MachineQuery};
use types::{Error, MachineAction};

/// What `wit/` generates. Nothing outside this file names a path of it.
mod bindings {
    #![expect(missing_docs, reason = "generated; the documentation is in `wit/`")]
    #![allow(
        unsafe_code,
        reason = "generated; it passes values to and from the host"
    )]

    wit_bindgen::generate!({
        path: "../wit",
        world: "plugin",
        additional_derives: [Clone, PartialEq, Eq],
    });

    // Natively nobody calls the exports, and a native library must not carry their symbols.
    #[cfg(target_family = "wasm")]
    use super::Plugin;
    #[cfg(target_family = "wasm")]
    export!(Plugin with_types_in self);
}

/// What the component exports.
pub struct Plugin;

impl code_execution::Guest for Plugin {
    fn unrestrict_code_execution(id: String, comment: String) -> Result<MachineAction, Error> {
        let machine = id.parse().map_err(refused_argument)?;
        let comment = comment.parse().map_err(refused_argument)?;
        action(&Call::UnrestrictCodeExecution { machine, comment })
    }
}

impl restriction::Guest for Plugin {
    fn restrict_code_execution(id: String, comment: String) -> Result<MachineAction, Error> {
        let machine = id.parse().map_err(refused_argument)?;
        let comment = comment.parse().map_err(refused_argument)?;
        action(&Call::RestrictCodeExecution { machine, comment })
    }
}

impl machine_actions::Guest for Plugin {
    fn get_machine_action(id: String) -> Result<MachineAction, Error> {
        let action_id = id.parse().map_err(refused_argument)?;
        action(&Call::GetMachineAction { action: action_id })
    }

    fn cancel_machine_action(id: String, comment: String) -> Result<MachineAction, Error> {
        let action_id = id.parse().map_err(refused_argument)?;
        let comment = comment.parse().map_err(refused_argument)?;
        action(&Call::CancelMachineAction {
            action: action_id,
            comment,
        })
    }

    fn list_machine_actions(
        filter: MachineActionFilter,
        top: u32,
        skip: u32,
    ) -> Result<MachineActionPage, Error> {
        let query = ActionQuery::new(&filter, top, skip).map_err(refused_argument)?;
        let call = Call::ListMachineActions(&query);
        call.interpret_as(&exchange(&call)?, |body| query.page_in(body))
    }
}

impl machines::Guest for Plugin {
    fn find_machines(computer_dns_name: String) -> Result<FoundMachines, Error> {
        let query: MachineQuery = computer_dns_name.parse().map_err(refused_argument)?;
        let call = Call::FindMachines(&query);
        call.interpret_as(&exchange(&call)?, |body| query.machines_in(body))
    }
}

/// Makes a call whose response is one action.
fn action(call: &Call<'_>) -> Result<MachineAction, Error> {
    call.interpret(&exchange(call)?)
}

fn exchange(call: &Call<'_>) -> Result<Answer, Error> {
    let access = connection::open(call.operation(), call.target()).map_err(api::refused)?;
    let request = call.request(&access)?;
    http::send(&request).map_err(|failure| call.unanswered(failure))
}

/// A panic is a fault of this code, and becomes a trap. Nobody could read a message (there is no
/// stream to write it to), and without one the formatting behind it stays out of the component.
#[cfg(target_family = "wasm")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    core::arch::wasm32::unreachable()
}
