//! The kernels and the descriptions of networks that they read, without the rest of the program.

/// As in the program.
#[path = "../../src/model"]
pub mod model {
    pub mod architecture;
    pub mod kernel;
}
