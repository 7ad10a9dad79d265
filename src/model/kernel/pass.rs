//! One pass through the network, in planned memory and depth first: each stage asks the one before for as many images as it computes at once, so that
//! activations are read while they are still in a cache.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Condvar, Mutex, PoisonError};

use super::Forward;
use super::conv::{Conv, Data, Scratch};
use super::memory::{Buffer, Shared};
use super::network::{FEATURES, Network, STAGES};
use super::plan::{Algorithm, Plan};
use super::simd::{Kernel, Simd};
use super::stem::CHANNELS;
use super::threads::Threads;

/// Pixels of input in one pass: eight images of 224. More would only cost memory.
const BATCH_PIXELS: usize = 8 * 224 * 224;
/// Most images in one pass.
const MOST_IMAGES: usize = 128;
/// Floats of output that any stage but the last computes at once for each thread: what it writes, the next one reads from the second-level cache.
const MOST_AT_ONCE: usize = 256 << 10;

impl<S: Simd> Forward for Network<S> {
    fn classes(&self) -> usize {
        self.classes
    }

    fn forward(&self, batch: usize, input: &[f32], output: &mut [f32]) {
        let mut taken = self.workspaces.take();
        let workspace = taken.workspace.as_mut().expect("it is there until the drop");
        let image = self.side * self.side * CHANNELS;
        let most = (BATCH_PIXELS / (self.side * self.side)).clamp(1, MOST_IMAGES);
        for images in even_parts(0..batch, most) {
            self.plan(workspace, images.len());
            self.pass(
                workspace,
                &input[images.start * image..images.end * image],
                &mut output[images.start * self.classes..images.end * self.classes],
            );
        }
    }
}

/// The workspaces of all calls that may run side by side.
pub(super) struct Workspaces {
    idle: Mutex<Vec<Workspace>>,
    returned: Condvar,
}

impl Workspaces {
    pub(super) fn new(workspaces: Vec<Workspace>) -> Self {
        Self { idle: Mutex::new(workspaces), returned: Condvar::new() }
    }

    /// Waits for one that is idle; the last one returned, which the caches may still hold.
    fn take(&self) -> Taken<'_> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let mut idle = self.returned.wait_while(idle, |idle| idle.is_empty()).unwrap_or_else(PoisonError::into_inner);
        Taken { from: self, workspace: idle.pop() }
    }
}

/// A workspace that goes back when it is dropped.
struct Taken<'a> {
    from: &'a Workspaces,
    workspace: Option<Workspace>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut idle = self.from.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.extend(self.workspace.take());
        self.from.returned.notify_one();
    }
}

/// What a call needs and the next can use again.
pub(super) struct Workspace {
    threads: Threads,
    /// Images that the rest is planned for.
    batch: usize,
    /// Most images that each stage computes at once.
    at_once: [usize; STAGES],
    /// By stage (the last layer is one more) and images at once: one for each convolution, in the order they run.
    plans: HashMap<(usize, usize), Vec<Plan>>,
    /// Between the convolutions of a block. All activations are of one length and end in [`FEATURES`] zeros.
    middle: Buffer,
    /// The stem's output; then what an identity shortcut adds, or a projection gives.
    sum: Buffer,
    /// Outputs of the stages, of as many images as the next computes at once.
    outputs: [Buffer; STAGES],
    /// `[batch][FEATURES]`
    pooled: Buffer,
    shared: Buffer,
    private: Buffer,
    /// Floats of `private` for each thread.
    private_len: usize,
}

/// Replaces a buffer that is too small.
fn grow(buffer: &mut Buffer, len: usize) {
    if buffer.len() < len {
        *buffer = Buffer::zeroed(len);
    }
}

impl Workspace {
    pub(super) fn new(threads: Threads) -> Self {
        let empty = || Buffer::zeroed(0);
        Self {
            threads,
            batch: 0,
            at_once: [0; STAGES],
            plans: HashMap::new(),
            middle: empty(),
            sum: empty(),
            outputs: std::array::from_fn(|_| empty()),
            pooled: empty(),
            shared: empty(),
            private: empty(),
            private_len: 0,
        }
    }
}

impl<S: Simd> Network<S> {
    /// Makes the workspace ready for `batch` images.
    fn plan(&self, workspace: &mut Workspace, batch: usize) {
        if workspace.batch == batch {
            return;
        }
        // Until the end, so that a panic on the way leaves no half a plan.
        workspace.batch = 0;
        let threads = workspace.threads.count();
        let output_len = |stage: usize| self.stages[stage].shape().output_len();
        let at_once = std::array::from_fn(|stage| {
            let most = if stage == STAGES - 1 { batch } else { threads * MOST_AT_ONCE / output_len(stage) };
            most.clamp(1, batch)
        });
        workspace.at_once = at_once;
        let activation = (0..STAGES)
            .map(|stage| at_once.get(stage + 1).unwrap_or(&batch).max(&at_once[stage]) * output_len(stage))
            .max()
            .unwrap_or(0);
        for buffer in [&mut workspace.middle, &mut workspace.sum].into_iter().chain(&mut workspace.outputs) {
            grow(buffer, activation + FEATURES);
            buffer[activation..activation + FEATURES].fill(0.0);
        }
        let plan = |conv: &Conv, images: usize| {
            let algorithm = Algorithm::choose(&conv.shape, images, S::LANES);
            Plan::new::<S>(algorithm, &conv.shape, images, activation, threads)
        };
        workspace.plans.clear();
        let mut sizes = vec![batch];
        for stage in (0..STAGES).rev() {
            let parts = sizes.iter().flat_map(|&size| even_parts(0..size, at_once[stage]));
            sizes = parts.map(|part| part.len()).collect();
            sizes.sort_unstable();
            sizes.dedup();
            for &images in &sizes {
                let plans = self.stages[stage].convs().map(|conv| plan(conv, images)).collect();
                workspace.plans.insert((stage, images), plans);
            }
        }
        workspace.plans.insert((STAGES, batch), vec![plan(&self.last, batch)]);
        let most = |floats: fn(&Plan) -> usize| workspace.plans.values().flatten().map(floats).max().unwrap_or(0);
        workspace.private_len = most(|plan| plan.private).max(self.stem.scratch::<S>()).next_multiple_of(16);
        grow(&mut workspace.shared, most(|plan| plan.shared));
        grow(&mut workspace.private, workspace.private_len * threads);
        grow(&mut workspace.pooled, batch * FEATURES);
        workspace.batch = batch;
    }

    /// Runs as many images as the workspace is planned for.
    fn pass(&self, workspace: &mut Workspace, input: &[f32], output: &mut [f32]) {
        let batch = workspace.batch;
        let mut pass = Pass {
            network: self,
            scratch: Scratch {
                shared: Shared(workspace.shared.as_mut_ptr()),
                private: Shared(workspace.private.as_mut_ptr()),
                private_len: workspace.private_len,
            },
            threads: &mut workspace.threads,
            at_once: workspace.at_once,
            plans: &workspace.plans,
            input,
            middle: Shared(workspace.middle.as_mut_ptr()),
            sum: Shared(workspace.sum.as_mut_ptr()),
            outputs: workspace.outputs.each_mut().map(|buffer| Shared(buffer.as_mut_ptr())),
        };
        // SAFETY: the workspace is planned for this batch.
        unsafe { pass.stage(STAGES - 1, 0..batch) };
        let (from, to) = (pass.outputs[STAGES - 1], Shared(workspace.pooled.as_mut_ptr()));
        let pixels = self.stages[STAGES - 1].shape().output_len() / FEATURES;
        // SAFETY: the last stage has written `batch` images of as many pixels; `pooled` holds a row for each.
        unsafe { self.simd.launch(Average { from: from.get(), pixels, batch, to: to.get() }) };
        let data = Data { batch, input: to, residual: NONE, output: Shared(output.as_mut_ptr()), relu: false };
        // SAFETY: the plan was made for this layer and batch.
        unsafe { self.last.run(self.simd, pass.threads, &pass.plans[&(STAGES, batch)][0], pass.scratch, data) };
    }
}

/// No residual.
const NONE: Shared<f32> = Shared(std::ptr::null_mut());

/// One pass.
struct Pass<'a, S: Simd> {
    network: &'a Network<S>,
    threads: &'a mut Threads,
    scratch: Scratch,
    at_once: [usize; STAGES],
    plans: &'a HashMap<(usize, usize), Vec<Plan>>,
    /// `[batch][side][side][3]`
    input: &'a [f32],
    middle: Shared<f32>,
    sum: Shared<f32>,
    outputs: [Shared<f32>; STAGES],
}

impl<S: Simd> Pass<'_, S> {
    /// Computes the output of a stage for some of the images.
    ///
    /// # Safety
    /// The workspace is planned for parts of this size.
    unsafe fn stage(&mut self, index: usize, images: Range<usize>) {
        let Network { simd, side, stem, stages, .. } = self.network;
        let stage = &stages[index];
        for part in even_parts(images.clone(), self.at_once[index]) {
            let batch = part.len();
            let from = match index.checked_sub(1) {
                // SAFETY: the buffers hold the largest part.
                None => unsafe {
                    let input = &self.input[part.start * side * side * CHANNELS..];
                    stem.run(*simd, self.threads, self.scratch, batch, input, self.sum);
                    self.sum
                },
                Some(before) => {
                    // SAFETY: as for this stage.
                    unsafe { self.stage(before, part.clone()) };
                    self.outputs[before]
                }
            };
            let to = Shared(
                self.outputs[index].get().wrapping_add((part.start - images.start) * stage.shape().output_len()),
            );
            let mut plans = self.plans[&(index, batch)].iter();
            let mut run = |conv: &Conv, input, residual, output, relu| {
                let plan = plans.next().expect("one plan for each convolution");
                // SAFETY: the plans were made in this order for these shapes, this batch and these threads; the buffers hold the largest part.
                unsafe {
                    conv.run(*simd, self.threads, plan, self.scratch, Data { batch, input, residual, output, relu })
                };
            };
            let (middle, sum) = (self.middle, self.sum);
            let [first, second] = &stage.blocks;
            // The sum replaces the shortcut's side of it.
            run(&first.first, from, NONE, middle, true);
            if let Some(shortcut) = &first.shortcut {
                run(shortcut, from, NONE, sum, false);
            }
            run(&first.second, middle, sum, sum, true);
            run(&second.first, sum, NONE, middle, true);
            run(&second.second, middle, sum, to, true);
        }
    }
}

/// Cuts a range into as few parts of at most `most` as can be, as equal as can be: 9 by 8 is 5 + 4, so that none is alone.
fn even_parts(range: Range<usize>, most: usize) -> impl Iterator<Item = Range<usize>> {
    let (len, parts) = (range.len(), range.len().div_ceil(most));
    (0..parts).map(move |part| {
        let start = |part: usize| range.start + part * (len / parts) + part.min(len % parts);
        start(part)..start(part + 1)
    })
}

/// The mean over all pixels of each channel.
struct Average {
    /// `[batch][pixels][FEATURES]`
    from: *const f32,
    pixels: usize,
    batch: usize,
    /// `[batch][FEATURES]`
    to: *mut f32,
}

impl Kernel for Average {
    #[inline(always)]
    unsafe fn run<S: Simd>(self, simd: S) {
        let scale = simd.splat(1.0 / self.pixels as f32);
        for image in 0..self.batch {
            for c in (0..FEATURES).step_by(S::LANES) {
                // SAFETY: the fields say what the pointers hold.
                unsafe {
                    let mut sum = simd.splat(0.0);
                    for pixel in image * self.pixels..(image + 1) * self.pixels {
                        sum = simd.add(sum, simd.load(self.from.add(pixel * FEATURES + c)));
                    }
                    simd.store(self.to.add(image * FEATURES + c), simd.mul(sum, scale));
                }
            }
        }
    }
}
