//! What a pass through a residual network needs, and the next can use again: memory, and the plans of all layers.

use std::collections::HashMap;
use std::ops::Range;

use super::layer::Conv;
use super::memory::Buffer;
use super::plan::{Algorithm, Plan};
use super::residual::Layers;
use super::run;
use super::simd::Simd;
use super::threads::Threads;

/// Floats of output that any stage but the last computes at once for each thread: what it writes, the next one reads
/// from the second-level cache.
const MOST_AT_ONCE: usize = 256 << 10;

/// Memory and plans for one batch size.
pub(super) struct Workspace {
    pub(super) threads: Threads,
    /// Images that the rest is planned for.
    pub(super) batch: usize,
    /// Most images that each stage computes at once.
    pub(super) at_once: Vec<usize>,
    /// By stage (the last layer is one more) and images at once: one for each convolution, in the order they run.
    pub(super) plans: HashMap<(usize, usize), Vec<Plan>>,
    /// Between the convolutions of a block. All activations are of one length and end in as many zeros as any has
    /// channels.
    pub(super) middle: Buffer,
    /// The stem's output; then what an identity shortcut adds, or a projection gives.
    pub(super) sum: Buffer,
    /// Outputs of the stages, of as many images as the next computes at once.
    pub(super) outputs: Vec<Buffer>,
    pub(super) shared: Buffer,
    pub(super) private: Buffer,
    /// Floats of `private` for each thread.
    pub(super) private_len: usize,
}

/// Replaces a buffer that is too small.
pub(super) fn grow(buffer: &mut Buffer, len: usize) {
    if buffer.len() < len {
        *buffer = Buffer::zeroed(len);
    }
}

/// Cuts a range into as few parts of at most `most` as can be, as equal as can be: 9 by 8 is 5 + 4, so that none is
/// alone.
pub(super) fn even_parts(range: Range<usize>, most: usize) -> impl Iterator<Item = Range<usize>> {
    let (len, parts) = (range.len(), range.len().div_ceil(most));
    (0..parts).map(move |part| {
        let start = |part: usize| range.start + part * (len / parts) + part.min(len % parts);
        start(part)..start(part + 1)
    })
}

impl Workspace {
    pub(super) fn new(threads: Threads) -> Self {
        let empty = || Buffer::zeroed(0);
        Self {
            threads,
            batch: 0,
            at_once: Vec::new(),
            plans: HashMap::new(),
            middle: empty(),
            sum: empty(),
            outputs: Vec::new(),
            shared: empty(),
            private: empty(),
            private_len: 0,
        }
    }

    /// Makes it ready for `batch` images.
    pub(super) fn plan<S: Simd>(&mut self, layers: &Layers, batch: usize) {
        if self.batch == batch {
            return;
        }
        // Until the end, so that a panic on the way leaves no half a plan.
        self.batch = 0;
        let (threads, stages) = (self.threads.count(), &layers.stages);
        let most = |len: usize| (threads * MOST_AT_ONCE / len).clamp(1, batch);
        self.at_once = stages.iter().map(|stage| most(stage.output_len)).collect();
        if let Some(last) = self.at_once.last_mut() {
            *last = batch;
        }
        let held = |stage: usize| *self.at_once.get(stage + 1).unwrap_or(&batch).max(&self.at_once[stage]);
        let activation = (0..stages.len()).map(|stage| held(stage) * stages[stage].output_len).max().unwrap_or(0);
        let zeros = layers.last.shape.inputs;
        self.outputs.resize_with(stages.len(), || Buffer::zeroed(0));
        for buffer in [&mut self.middle, &mut self.sum].into_iter().chain(&mut self.outputs) {
            grow(buffer, activation + zeros);
            buffer[activation..activation + zeros].fill(0.0);
        }
        self.plan_layers::<S>(layers, batch, activation);
        let most = |floats: fn(&Plan) -> usize| self.plans.values().flatten().map(floats).max().unwrap_or(0);
        let shared = most(|plan| plan.shared);
        self.private_len = most(|plan| plan.private).max(layers.stem.scratch::<S>()).next_multiple_of(16);
        grow(&mut self.shared, shared);
        grow(&mut self.private, self.private_len * threads);
        self.batch = batch;
    }

    /// Plans every layer for each number of images that it will get. `zeros` is where the zeros behind each activation
    /// are.
    fn plan_layers<S: Simd>(&mut self, layers: &Layers, batch: usize, zeros: usize) {
        let threads = self.threads.count();
        let plan = |conv: &Conv, images: usize| {
            let algorithm = Algorithm::choose(&conv.shape, images, S::LANES);
            run::plan::<S>(algorithm, &conv.shape, images, zeros, threads)
        };
        self.plans.clear();
        let mut sizes = vec![batch];
        for (index, stage) in layers.stages.iter().enumerate().rev() {
            let parts = sizes.iter().flat_map(|&size| even_parts(0..size, self.at_once[index]));
            sizes = parts.map(|part| part.len()).collect();
            sizes.sort_unstable();
            sizes.dedup();
            for &images in &sizes {
                let plans = stage.convs().map(|conv| plan(conv, images)).collect();
                self.plans.insert((index, images), plans);
            }
        }
        self.plans.insert((layers.stages.len(), batch), vec![plan(&layers.last, batch)]);
    }
}
