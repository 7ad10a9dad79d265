//! Networks at the machine's limit: the whole forward pass in `f32`, on `[batch][row][column][channel]`.
//!
//! From the bottom: [`simd`] and [`x86`] are vectors, [`gemm`] the register tile. A [`layer`] is a convolution of some
//! [`shape`] with filters from [`pack`]; a [`plan`] says by which algorithm it runs, and [`run`] finds it: [`direct`],
//! or [`winograd`] with its [`planes`], [`tile`], [`transforms`] and [`pairs`].
//!
//! A residual network is a [`stem`] and the layers of [`residual`]; [`pass`] runs them on [`threads`], in the
//! [`memory`] that a [`workspace`] plans. A network of [`inverted`] residuals is a [`cascade`] of blocks, made of
//! [`pointwise`] and [`depthwise`] convolutions; [`product`] is the register tile of the former.
//!
//! Reasons for `unsafe` here: vector instructions, tasks that write disjoint parts of one tensor, huge pages.

// Loops over registers have constant bounds, and an index often means the same row of several arrays.
#![allow(clippy::needless_range_loop)]

#[doc(hidden)]
pub mod bench;
mod calls;
mod cascade;
mod depthwise;
mod direct;
mod gemm;
mod inverted;
mod inverted_size;
mod layer;
mod mean;
mod memory;
mod pack;
mod pairs;
mod pass;
mod plan;
mod planes;
mod pointwise;
mod product;
mod residual;
mod run;
mod shape;
mod simd;
mod stem;
#[cfg(test)]
mod tests;
mod threads;
mod tile;
mod transforms;
mod weights;
mod winograd;
mod workspace;
#[cfg(target_arch = "x86_64")]
mod x86;

use super::architecture::{Family, Network};
use calls::Calls;
use cascade::{Cascade, Memory};
pub use memory::{give_back_large_blocks, unload};
use pass::Residual;
use residual::Layers;
use simd::Simd;
use stem::CHANNELS;
use threads::Threads;
pub use weights::{KernelError, Weights};
use workspace::Workspace;

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

/// Calls `$f::<S>` for the token `S` of an [`Isa`]; `$absent` is for one that the target never has.
macro_rules! with_isa {
    ($isa:expr, $f:ident($($argument:expr),*), $absent:expr) => {
        match $isa {
            #[cfg(target_arch = "x86_64")]
            $crate::kernel::Isa::Avx512 => $f::<$crate::kernel::x86::Avx512>($($argument),*),
            #[cfg(target_arch = "x86_64")]
            $crate::kernel::Isa::Avx2 => $f::<$crate::kernel::x86::Avx2>($($argument),*),
            #[cfg(not(target_arch = "x86_64"))]
            $crate::kernel::Isa::Avx512 | $crate::kernel::Isa::Avx2 => $absent,
            $crate::kernel::Isa::Portable => $f::<$crate::kernel::simd::Portable>($($argument),*),
        }
    };
}
use with_isa;

impl Isa {
    /// All of them, the fastest first.
    pub const ALL: [Self; 3] = [Self::Avx512, Self::Avx2, Self::Portable];

    /// The ones that this processor has, the fastest first.
    pub fn available() -> impl Iterator<Item = Self> {
        fn detected<S: Simd>() -> bool {
            S::detect().is_some()
        }
        Self::ALL.into_iter().filter(|isa| with_isa!(isa, detected(), false))
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

/// What a network gives for a batch of images.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outputs {
    /// What the last layer got: `[batch][features]`.
    pub features: Vec<f32>,
    /// What it made of them: `[batch][classes]`.
    pub logits: Vec<f32>,
}

/// A network compiled for one instruction set.
trait Forward: Send + Sync {
    /// `input` is `[batch][side][side][3]`; the outputs have their length.
    fn forward(&self, batch: usize, input: &[f32], outputs: &mut Outputs);
}

/// A network for square images of one side.
pub struct Kernel {
    side: usize,
    features: usize,
    classes: usize,
    isa: Isa,
    network: Box<dyn Forward>,
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernel").field("side", &self.side).field("isa", &self.isa).finish_non_exhaustive()
    }
}

impl Kernel {
    /// Folds and packs the weights of `network`.
    ///
    /// # Errors
    /// [`KernelError`].
    pub fn new(
        network: &Network,
        weights: &dyn Weights,
        side: usize,
        isa: Isa,
        parallel: Parallel,
    ) -> Result<Self, KernelError> {
        if side == 0 || parallel.calls == 0 || parallel.threads == 0 {
            return Err(KernelError::Zero);
        }
        let absent = || KernelError::Instructions(isa);
        let compiled = with_isa!(isa, compile(network, weights, side, parallel), Err(absent()))?.ok_or_else(absent)?;
        Ok(Self { side, features: network.features(), classes: network.classes(), isa, network: compiled })
    }

    /// Features and logits of normalised images `[batch][side][side][3]`. May be called from several threads; as many
    /// calls run at a time as the kernel was made for, the others wait.
    ///
    /// # Panics
    /// If `images` is not a whole number of images.
    #[must_use]
    pub fn forward(&self, images: &[f32]) -> Outputs {
        let image = self.side * self.side * CHANNELS;
        assert!(images.len().is_multiple_of(image), "an image has {image} values, a batch {}", images.len());
        let batch = images.len() / image;
        let mut outputs =
            Outputs { features: vec![0.0; batch * self.features], logits: vec![0.0; batch * self.classes] };
        self.network.forward(batch, images, &mut outputs);
        outputs
    }
}

/// The network for the instructions of `S`, or `None` if this processor lacks them.
fn compile<S: Simd>(
    network: &Network,
    weights: &dyn Weights,
    side: usize,
    Parallel { calls, threads: each }: Parallel,
) -> Result<Option<Box<dyn Forward>>, KernelError> {
    let Some(simd) = S::detect() else { return Ok(None) };
    let mut threads = Threads::new(calls * each)?;
    match &network.family {
        Family::Residual(residual) => {
            let layers = Layers::new::<S>(network, residual, weights, side, &mut threads)?;
            drop(threads);
            let calls = (0..calls).map(|_| Ok(Workspace::new(Threads::new(each)?))).collect::<Result<_, KernelError>>();
            Ok(Some(Box::new(Residual { simd, layers, calls: Calls::new(calls?) })))
        }
        Family::Inverted(inverted) => {
            let layers = cascade::Layers::new::<S>(network, inverted, weights, side, &mut threads)?;
            drop(threads);
            let calls = (0..calls).map(|_| Ok(Memory::new(Threads::new(each)?))).collect::<Result<_, KernelError>>();
            Ok(Some(Box::new(Cascade { simd, layers, calls: Calls::new(calls?) })))
        }
    }
}
