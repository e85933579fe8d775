//! The component, the host library and the stand-in service together, over loopback.

#![allow(
    clippy::unwrap_used,
    reason = "a test that panics has failed, and says where"
)]

mod answers;
mod arguments;
mod audit;
mod auth;
mod batch;
mod browser;
mod call;
mod cancel;
mod chaos;
mod check;
mod cli;
mod clouds;
mod config;
mod conformance;
mod contract;
mod crash;
mod credentials;
mod docs;
mod egress;
mod examples;
mod faults;
mod file_trust;
mod gateway;
mod guest;
mod hostile_servers;
mod identity;
mod lists;
mod load;
mod logs;
mod memory;
mod names;
mod no_answer;
mod oidc;
mod processes;
mod quota;
mod reasons;
mod redis;
mod renewal;
mod restriction;
mod sharing;
mod structure;
mod survey;
mod token_retry;
mod transport;
mod transport_guard;
mod trust;
mod waiting;
