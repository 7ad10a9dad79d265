//! A server of HTTP whose connections are bounded and whose clients must keep up, for every role that listens.

mod activity;
mod files;
mod pace;
mod places;
mod server;

pub(crate) use activity::{Activity, Doing};
pub(crate) use pace::Slow;
pub use server::listen;
pub(crate) use server::{Ends, Server, Service};
