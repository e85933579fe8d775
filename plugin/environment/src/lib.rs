//! `connection`, answered from two variables of the environment: `DEFENDER_BASE_URL` and
//! `DEFENDER_TOKEN`.
//!
//! For hosts that run a component and can do no more for it than set variables. Composed with the
//! plugin it takes the host's place, and it is the weaker one: it grants every operation on every
//! target, and hands the token to the guest.
//!
//! What it reads it passes on: whether it is an origin and a bearer token is the plugin's question.
//! What a host has to decide is decided here: without both variables there is no connection, and a
//! token does not cross a network in the clear.

#![no_std]
#![deny(missing_docs)]
#![deny(unsafe_code)]

extern crate alloc;

use alloc::string::String;

use bindings::exports::defender::endpoint::connection::{
    Access, Authorization, Guest, Operation, Refusal,
};

/// What `wit/` generates.
mod bindings {
    #![allow(
        unsafe_code,
        reason = "generated; it passes values to and from the host"
    )]

    wit_bindgen::generate!({
        path: "../../wit",
        inline: "
            package defender:environment;
            world environment { export defender:endpoint/connection@0.1.0; }
        ",
        additional_derives: [Clone, PartialEq, Eq],
    });

    // Natively nobody calls the exports, and a native library must not carry their symbols.
    #[cfg(target_family = "wasm")]
    use super::Environment;
    #[cfg(target_family = "wasm")]
    export!(Environment with_types_in self);
}

/// What the component exports.
pub struct Environment;

impl Guest for Environment {
    fn open(_: Operation, _: Option<String>) -> Result<Access, Refusal> {
        access(&wasi::cli::environment::get_environment())
    }
}

fn access(variables: &[(String, String)]) -> Result<Access, Refusal> {
    let read = |wanted: &str| {
        let found = variables.iter().find(|(name, _)| name == wanted);
        found
            .map(|(_, value)| value.clone())
            .filter(|value| !value.is_empty())
            // Without `format!`, which is a third of the code.
            .ok_or_else(|| Refusal::Unavailable(["set the environment variable ", wanted].concat()))
    };
    let base_url = read("DEFENDER_BASE_URL")?;
    if is_in_the_clear(&base_url) {
        return Err(Refusal::Unavailable(
            "DEFENDER_BASE_URL has to be an https:// URL, except on loopback".into(),
        ));
    }
    Ok(Access {
        base_url,
        authorization: Authorization::Bearer(read("DEFENDER_TOKEN")?),
    })
}

/// Whether it is an `http://` URL that leads off this machine.
fn is_in_the_clear(url: &str) -> bool {
    let Some((scheme, rest)) = url.split_once(':') else {
        return false;
    };
    let rest = rest.trim_start_matches('/');
    let authority = rest.split(['/', '?', '#', '\\']).next().unwrap_or(rest);
    let place = authority.rsplit('@').next().unwrap_or(authority);
    let host = match place.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => place,
    };
    scheme.eq_ignore_ascii_case("http") && !is_loopback(host)
}

fn is_loopback(host: &str) -> bool {
    // Four numbers, the first of them 127. A name can begin with digits, too.
    let is_ipv4 = host.strip_prefix("127.").is_some_and(|rest| {
        let is_number =
            |part: &str| part.bytes().all(|b| b.is_ascii_digit()) && part.parse::<u8>().is_ok();
        rest.split('.').count() == 3 && rest.split('.').all(is_number)
    });
    is_ipv4 || host == "[::1]" || host.eq_ignore_ascii_case("localhost")
}

#[cfg(target_family = "wasm")]
#[global_allocator]
static HEAP: talc::wasm::WasmDynamicTalc = talc::wasm::new_wasm_dynamic_allocator();

/// As in the plugin: a fault of this code becomes a trap, and nobody could read a message.
#[cfg(target_family = "wasm")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    core::arch::wasm32::unreachable()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::ToString as _;
    use alloc::vec::Vec;

    fn with(variables: &[(&str, &str)]) -> Result<Access, Refusal> {
        let owned = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
        access(&variables.iter().map(owned).collect::<Vec<_>>())
    }

    fn at(base_url: &str) -> Result<Access, Refusal> {
        with(&[("DEFENDER_TOKEN", "t"), ("DEFENDER_BASE_URL", base_url)])
    }

    #[test]
    fn both_variables_are_passed_on_as_they_are() {
        for base_url in ["https://x.test", "x", "https://x/y?z", "http:127.0.0.1"] {
            let expected = Access {
                base_url: base_url.to_string(),
                authorization: Authorization::Bearer("t".to_string()),
            };
            assert_eq!(at(base_url), Ok(expected));
        }
    }

    #[test]
    fn a_variable_that_is_missing_or_empty_is_named() {
        let token = ("DEFENDER_TOKEN", "t");
        let base_url = ("DEFENDER_BASE_URL", "https://x.test");
        for (variables, missing) in [
            (&[token, ("DEFENDER_BASE_URL", "")][..], base_url.0),
            (&[token], base_url.0),
            (&[base_url, ("DEFENDER_TOKEN", "")], token.0),
            (&[base_url, ("defender_token", "t")], token.0),
        ] {
            let text = format!("set the environment variable {missing}");
            assert_eq!(with(variables), Err(Refusal::Unavailable(text)));
        }
    }

    #[test]
    fn plain_http_is_for_loopback() {
        for base_url in [
            "http://127.0.0.1",
            "http://127.1.2.3:8080/",
            "HTTP://LocalHost:80",
            "http://[::1]:8080",
            "http://[::1]",
            // Not origins, which is for the plugin to say.
            "http://127.0.0.1/x",
            "http://user@localhost?x",
        ] {
            assert!(at(base_url).is_ok(), "{base_url}");
        }
        for base_url in [
            "http://api.security.microsoft.com",
            "HTTP://10.0.0.1:8080",
            "http://127.0.0.1.evil.test",
            "http://127.evil.0.1",
            "http://127.0.0.256",
            "http://127.0.0.+1",
            "http://127.0.0.1.1",
            "http://localhost.evil.test",
            "http://localhost@evil.test",
            "http://localhost:80@evil.test",
            "http://evil.test/localhost",
            "http://evil.test/@localhost",
            "http://evil.test\\@localhost",
            "http://[::2]",
            "http:evil.test",
            "http://",
        ] {
            assert!(
                matches!(at(base_url), Err(Refusal::Unavailable(_))),
                "{base_url}"
            );
        }
    }
}
