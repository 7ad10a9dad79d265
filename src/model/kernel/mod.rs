//! ResNet-18 at the machine's limit: the whole forward pass as one candle operation, in `f32`, on `[batch][row][column][channel]`.
//!
//! From the bottom: [`simd`] and [`x86`] are vectors, [`gemm`] the register tile. A layer is a [`conv`] with filters from [`pack`], and [`plan`] chooses its
//! algorithm: [`direct`], or [`winograd`] with its [`planes`], [`tile`], [`transforms`] and [`pairs`]. [`stem`] is the first layers at once, [`network`] what
//! they all make up, and [`pass`] runs it on [`threads`] in planned [`memory`].
//!
//! This is the only folder with `unsafe`. Its reasons: vector instructions, tasks that write disjoint parts of one tensor, huge pages.

// Loops over registers have constant bounds, and an index often means the same row of several arrays.
#![allow(clippy::needless_range_loop)]

#[doc(hidden)]
pub mod bench;
mod conv;
mod direct;
mod gemm;
mod memory;
mod network;
mod pack;
mod pairs;
mod pass;
mod plan;
mod planes;
mod simd;
mod stem;
#[cfg(test)]
mod tests;
mod threads;
mod tile;
mod transforms;
mod winograd;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::collections::HashMap;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, DType, Layout, Shape, Tensor};

use network::Network;
use simd::{Portable, Simd};

/// The vector instructions to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// AVX-512 Foundation.
    Avx512,
    /// AVX2 and FMA.
    Avx2,
    /// What every processor of the target has.
    Portable,
}

impl Isa {
    /// All of them, the fastest first.
    pub const ALL: [Self; 3] = [Self::Avx512, Self::Avx2, Self::Portable];

    /// The ones that this processor has, the fastest first.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|isa| match isa {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => x86::Avx512::detect().is_some(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => x86::Avx2::detect().is_some(),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx512 | Self::Avx2 => false,
            Self::Portable => true,
        })
    }
}

/// How calls of a network share the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parallel {
    /// Calls that may run side by side, each in memory of its own; others wait. More give more throughput.
    pub calls: usize,
    /// Threads that share each call. More give less latency.
    pub threads: usize,
}

impl Parallel {
    /// One call at a time, on `threads` threads.
    #[must_use]
    pub const fn one(threads: usize) -> Self {
        Self { calls: 1, threads }
    }
}

/// A network compiled for one instruction set.
trait Forward: Send + Sync {
    /// Number of classes.
    fn classes(&self) -> usize;
    /// `input` is `[batch][side][side][3]`, `output` `[batch][classes]`.
    fn forward(&self, batch: usize, input: &[f32], output: &mut [f32]);
}

/// ResNet-18 for square images of one side, as a candle operation from `[N, side, side, 3]` to `[N, classes]`.
pub struct Kernel {
    side: usize,
    isa: Isa,
    network: Box<dyn Forward>,
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernel").field("side", &self.side).field("isa", &self.isa).finish_non_exhaustive()
    }
}

impl Kernel {
    /// Folds and packs torchvision's tensors.
    ///
    /// # Errors
    /// A tensor is missing or has another shape than ResNet-18's; this processor lacks the instructions; a thread cannot be started.
    pub fn new(
        weights: &HashMap<String, Tensor>,
        side: usize,
        isa: Isa,
        parallel: Parallel,
    ) -> candle_core::Result<Self> {
        let missing = || candle_core::Error::msg(format!("this processor cannot run {isa:?} kernels; choose another"));
        if side == 0 || parallel.calls == 0 || parallel.threads == 0 {
            candle_core::bail!("a network needs a side, calls and threads above 0");
        }
        let network: Box<dyn Forward> = match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => Box::new(Network::new(x86::Avx512::detect().ok_or_else(missing)?, weights, side, parallel)?),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Box::new(Network::new(x86::Avx2::detect().ok_or_else(missing)?, weights, side, parallel)?),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx512 | Isa::Avx2 => return Err(missing()),
            Isa::Portable => Box::new(Network::new(Portable, weights, side, parallel)?),
        };
        Ok(Self { side, isa, network })
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.network.classes()
    }
}

impl CustomOp1 for Kernel {
    fn name(&self) -> &'static str {
        "resnet18"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let &[batch, height, width, channels] = layout.dims() else {
            candle_core::bail!("the network takes [N, {0}, {0}, 3], not {1:?}", self.side, layout.dims());
        };
        if (height, width, channels) != (self.side, self.side, 3) {
            candle_core::bail!("the network takes [N, {0}, {0}, 3], not {1:?}", self.side, layout.dims());
        }
        let CpuStorage::F32(input) = storage else {
            candle_core::bail!("the network takes {:?}, not {:?}", DType::F32, storage.dtype());
        };
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("the network takes a contiguous input");
        };
        let mut output = vec![0.0; batch * self.classes()];
        self.network.forward(batch, &input[start..end], &mut output);
        Ok((CpuStorage::F32(output), Shape::from((batch, self.classes()))))
    }
}
