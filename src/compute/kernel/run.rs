//! From an algorithm to the file that plans and runs it.

use super::layer::Call;
use super::plan::{Algorithm, Plan};
use super::shape::Shape;
use super::simd::Simd;
use super::{direct, winograd};

/// Plans `shape` for `batch` images, whose input is followed by zeros at a distance of `zeros`, on `threads` threads.
pub(super) fn plan<S: Simd>(algorithm: Algorithm, shape: &Shape, batch: usize, zeros: usize, threads: usize) -> Plan {
    match algorithm {
        Algorithm::Direct => direct::plan::<S>(shape, batch, zeros, threads),
        _ => winograd::plan::<S>(algorithm, shape, batch, zeros, threads),
    }
}

/// Runs a layer by the algorithm of its plan.
///
/// # Safety
/// The call's memory must be as its fields say.
pub(super) unsafe fn run<S: Simd>(call: Call<'_, S>) {
    let conv = call.conv;
    // SAFETY: the caller's promise.
    unsafe {
        match call.plan.algorithm {
            Algorithm::Direct => direct::run(call),
            _ => winograd::run(call),
        }
    }
    conv.mark_used();
}
