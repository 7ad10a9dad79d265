//! Scaling of the app tier: the policy, what carries it out, and its simulation.

pub mod policy;

pub use policy::Rules;
