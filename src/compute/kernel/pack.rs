//! Filters as the kernels read them: batch norm folded in (Ioffe & Szegedy, "Batch Normalization", 2015, at inference
//! an affine map per channel), then packed by panels.

use super::memory::{Buffer, Shared};
use super::threads::Threads;

/// Input channels packed at once, so that what is read and written stays in the first-level cache.
const STRIP: usize = 16;

/// A layer's filters as the weights file has them.
pub(super) struct Filters {
    /// `[outputs][inputs][taps]`
    pub(super) weights: Vec<f32>,
    /// Output channels.
    pub(super) outputs: usize,
    /// Input channels.
    pub(super) inputs: usize,
    /// Filter taps.
    pub(super) taps: usize,
    /// What each output channel is multiplied with, the batch norm's scale; nothing for 1.
    pub(super) scale: Option<Vec<f32>>,
    /// What is added to each output channel.
    pub(super) bias: Vec<f32>,
}

/// Scale and bias of a batch norm: `gamma / sqrt(variance + epsilon)` and `beta - mean * scale`.
pub(super) fn fold(gamma: &[f32], beta: &[f32], mean: &[f32], variance: &[f32], epsilon: f64) -> (Vec<f32>, Vec<f32>) {
    (0..gamma.len())
        .map(|c| {
            let scale = f64::from(gamma[c]) / (f64::from(variance[c]) + epsilon).sqrt();
            (scale as f32, (f64::from(beta[c]) - f64::from(mean[c]) * scale) as f32)
        })
        .unzip()
}

impl Filters {
    /// The filters as `[panel][tap][input channel][panel channel]`, the last panel filled up with zeros.
    pub(super) fn pack(&self, panel: usize, threads: &mut Threads) -> Buffer {
        let Self { ref weights, outputs, inputs, taps, ref scale, .. } = *self;
        let panels = outputs.div_ceil(panel);
        let mut packed = Buffer::zeroed(panels * taps * inputs * panel);
        let to = Shared(packed.as_mut_ptr());
        threads.run(panels, &|p, _| {
            // SAFETY: each task writes its own panel.
            let to = unsafe {
                std::slice::from_raw_parts_mut(to.get().add(p * taps * inputs * panel), taps * inputs * panel)
            };
            for first in (0..inputs).step_by(STRIP) {
                let strip = STRIP.min(inputs - first);
                for lane in 0..panel.min(outputs - p * panel) {
                    let output = p * panel + lane;
                    let scale = scale.as_ref().map_or(1.0, |scale| scale[output]);
                    let from = &weights[(output * inputs + first) * taps..][..strip * taps];
                    for (i, filter) in from.chunks_exact(taps).enumerate() {
                        for (tap, weight) in filter.iter().enumerate() {
                            to[(tap * inputs + first + i) * panel + lane] = weight * scale;
                        }
                    }
                }
            }
        });
        packed
    }

    /// The bias, filled up to whole panels.
    pub(super) fn pack_bias(&self, panel: usize) -> Buffer {
        let mut bias = Buffer::zeroed(self.outputs.next_multiple_of(panel));
        bias[..self.outputs].copy_from_slice(&self.bias);
        bias
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_puts_the_channels_of_a_panel_side_by_side() {
        let (outputs, inputs, taps, panel) = (5, 19, 4, 3);
        let weights: Vec<f32> = (0..outputs * inputs * taps).map(|i| i as f32).collect();
        let scale = Some(vec![1.0, 2.0, 3.0, 4.0, 5.0]);
        let filters = Filters { weights: weights.clone(), outputs, inputs, taps, scale, bias: vec![1.0; 5] };
        let packed = filters.pack(panel, &mut Threads::new(2).unwrap());
        for output in 0..6 {
            for input in 0..inputs {
                for tap in 0..taps {
                    let at = ((output / panel * taps + tap) * inputs + input) * panel + output % panel;
                    let expected = if output < outputs {
                        weights[(output * inputs + input) * taps + tap] * (output + 1) as f32
                    } else {
                        0.0
                    };
                    assert_eq!(packed[at], expected);
                }
            }
        }
        assert_eq!(filters.pack_bias(panel)[..], [1.0, 1.0, 1.0, 1.0, 1.0, 0.0]);
    }

    #[test]
    fn folding_is_the_batch_norm() {
        let (scale, bias) = fold(&[0.5], &[0.25], &[3.0], &[4.0], 1e-5);
        let (x, expected) = (7.0, (7.0 - 3.0) / (4.0f64 + 1e-5).sqrt() * 0.5 + 0.25);
        assert!((f64::from(x * scale[0] + bias[0]) - expected).abs() < 1e-6);
    }
}
