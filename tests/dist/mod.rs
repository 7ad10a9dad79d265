//! What is shipped: the binary in roots where there is nothing else, the archive, the container, the example for
//! Kubernetes, the papers.
//!
//! `make test` runs them with the binary that tests are built with, which needs some libraries: they are put into the
//! roots with it. `make test-dist` runs them with the binary of `make dist`, which must need none.

mod chroot;
mod container;
mod kubernetes;
mod notify;
mod package;
mod readme;
mod root;
