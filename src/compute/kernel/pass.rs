//! One pass through a residual network, depth first: each stage asks the one before for as many images as it computes
//! at once, so that activations are read while they are still in a cache.

use std::collections::HashMap;
use std::ops::Range;

use super::calls::Calls;
use super::layer::{Call, Conv, Data, Scratch};
use super::mean::Mean;
use super::memory::Shared;
use super::plan::Plan;
use super::residual::Layers;
use super::run;
use super::simd::Simd;
use super::stem::CHANNELS;
use super::threads::Threads;
use super::workspace::{Workspace, even_parts};
use super::{Forward, Outputs};

/// Pixels of input in one pass: eight images of 224. More would only cost memory.
const BATCH_PIXELS: usize = 8 * 224 * 224;
/// Most images in one pass.
const MOST_IMAGES: usize = 128;

/// A residual network for one instruction set.
pub(super) struct Residual<S: Simd> {
    pub(super) simd: S,
    pub(super) layers: Layers,
    pub(super) calls: Calls<Workspace>,
}

impl<S: Simd> Forward for Residual<S> {
    fn forward(&self, batch: usize, input: &[f32], outputs: &mut Outputs) {
        let Layers { side, ref last, .. } = self.layers;
        let mut workspace = self.calls.take();
        let image = side * side * CHANNELS;
        let most = (BATCH_PIXELS / (side * side)).clamp(1, MOST_IMAGES);
        for images in even_parts(0..batch, most) {
            workspace.plan::<S>(&self.layers, images.len());
            let of = |len: usize| images.start * len..images.end * len;
            self.pass(
                &mut workspace,
                &input[of(image)],
                &mut outputs.features[of(last.shape.inputs)],
                &mut outputs.logits[of(last.shape.outputs)],
            );
        }
    }
}

impl<S: Simd> Residual<S> {
    /// Runs as many images as the workspace is planned for.
    fn pass(&self, workspace: &mut Workspace, input: &[f32], features: &mut [f32], logits: &mut [f32]) {
        let (batch, stages) = (workspace.batch, self.layers.stages.len());
        let mut pass = Pass {
            simd: self.simd,
            layers: &self.layers,
            scratch: Scratch {
                shared: Shared(workspace.shared.as_mut_ptr()),
                private: Shared(workspace.private.as_mut_ptr()),
                private_len: workspace.private_len,
            },
            threads: &mut workspace.threads,
            at_once: &workspace.at_once,
            plans: &workspace.plans,
            input,
            middle: Shared(workspace.middle.as_mut_ptr()),
            sum: Shared(workspace.sum.as_mut_ptr()),
            outputs: workspace.outputs.iter_mut().map(|buffer| Shared(buffer.as_mut_ptr())).collect(),
        };
        // SAFETY: the workspace is planned for this batch.
        unsafe { pass.stage(stages - 1, 0..batch) };
        let last = &self.layers.last;
        let channels = last.shape.inputs;
        let mean = Mean {
            from: pass.outputs[stages - 1].get(),
            from_stride: channels,
            pixels: self.layers.stages[stages - 1].output_len / channels,
            channels,
            batch,
            to: features.as_mut_ptr(),
            stride: channels,
        };
        // SAFETY: the last stage has written `batch` images of as many pixels; `features` holds a row for each.
        unsafe { self.simd.launch(mean) };
        let (input, output) = (Shared(features.as_mut_ptr()), Shared(logits.as_mut_ptr()));
        let data = Data { batch, input, residual: NONE, output, relu: false };
        let plan = &workspace.plans[&(stages, batch)][0];
        // SAFETY: the plan was made for this layer and batch.
        unsafe { pass.run(last, plan, data) };
    }
}

/// No residual.
const NONE: Shared<f32> = Shared(std::ptr::null_mut());

/// One pass.
struct Pass<'a, S: Simd> {
    simd: S,
    layers: &'a Layers,
    threads: &'a mut Threads,
    scratch: Scratch,
    at_once: &'a [usize],
    plans: &'a HashMap<(usize, usize), Vec<Plan>>,
    /// `[batch][side][side][3]`
    input: &'a [f32],
    middle: Shared<f32>,
    sum: Shared<f32>,
    outputs: Vec<Shared<f32>>,
}

impl<S: Simd> Pass<'_, S> {
    /// Computes the output of a stage for some of the images.
    ///
    /// # Safety
    /// The workspace is planned for parts of this size.
    unsafe fn stage(&mut self, index: usize, images: Range<usize>) {
        let (layers, plans, middle, sum) = (self.layers, self.plans, self.middle, self.sum);
        let stage = &layers.stages[index];
        for part in even_parts(images.clone(), self.at_once[index]) {
            // SAFETY: as for this stage.
            let mut from = unsafe { self.before(index, part.clone()) };
            let batch = part.len();
            let to = self.outputs[index].get().wrapping_add((part.start - images.start) * stage.output_len);
            let mut plans = plans[&(index, batch)].iter();
            let mut run = |conv: &Conv, input, residual, output, relu| {
                let plan = plans.next().expect("one plan for each convolution");
                // SAFETY: the plans were made in this order for these shapes, this batch and these threads; the buffers
                // hold the largest part.
                unsafe { self.run(conv, plan, Data { batch, input, residual, output, relu }) };
            };
            for (index, block) in stage.blocks.iter().enumerate() {
                let output = if index + 1 == stage.blocks.len() { Shared(to) } else { sum };
                run(&block.first, from, NONE, middle, true);
                let residual = match &block.shortcut {
                    Some(shortcut) => {
                        run(shortcut, from, NONE, sum, false);
                        sum
                    }
                    None => from,
                };
                // Where both are the same memory, the sum replaces the shortcut's side of it.
                run(&block.second, middle, residual, output, true);
                from = output;
            }
        }
    }

    /// The input of a stage: the output of the one before, or of the stem.
    ///
    /// # Safety
    /// As [`Pass::stage`].
    unsafe fn before(&mut self, index: usize, images: Range<usize>) -> Shared<f32> {
        let Layers { side, ref stem, .. } = *self.layers;
        match index.checked_sub(1) {
            // SAFETY: the buffers hold the largest part.
            None => unsafe {
                let input = &self.input[images.start * side * side * CHANNELS..];
                stem.run(self.simd, self.threads, self.scratch, images.len(), input, self.sum);
                self.sum
            },
            Some(before) => {
                // SAFETY: the caller's promise.
                unsafe { self.stage(before, images) };
                self.outputs[before]
            }
        }
    }

    /// Runs one layer.
    ///
    /// # Safety
    /// The plan must be made for this layer and batch, and `data` be of its shape.
    unsafe fn run(&mut self, conv: &Conv, plan: &Plan, data: Data) {
        let call = Call { simd: self.simd, threads: self.threads, conv, plan, scratch: self.scratch, data };
        // SAFETY: the caller's promise; the scratch is as large as any plan asks.
        unsafe { run::run(call) };
    }
}
