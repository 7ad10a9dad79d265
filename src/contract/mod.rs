//! What is written on the wire and in the stores: names, times, events, order, tags and results. Pure functions, no
//! input or output.

pub mod escape;
pub mod event;
pub mod name;
pub mod order;
pub mod result;
pub mod scaling;
pub mod sequencer;
pub mod tags;
pub mod timestamp;
pub mod worker;

pub use escape::{escape, escape_path};
pub use event::ObjectEvent;
pub use name::{Digest, ImageName};
pub use result::{Classification, Outcome};
pub use scaling::Change;
pub use sequencer::Sequencer;
pub use timestamp::Timestamp;
pub use worker::WorkerId;
