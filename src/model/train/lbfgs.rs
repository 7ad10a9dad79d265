//! Limited-memory BFGS (Nocedal & Wright, "Numerical Optimization", 2nd edition, algorithms 7.4 and 7.5) for smooth
//! convex functions.

use std::collections::VecDeque;

/// Pairs of steps and changes of the gradient that are kept.
const MEMORY: usize = 10;
/// The share of the decrease that the slope promises which a step must give.
const SUFFICIENT: f64 = 1e-4;
/// Halvings of a step before the search gives up: the function is then flat to the last bit.
const HALVINGS: usize = 40;

/// When to stop.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stop {
    /// No component of the gradient is larger.
    pub(super) gradient: f64,
    /// Most steps.
    pub(super) steps: usize,
}

/// Lowers `function`, which returns its value and gradient at a point, from `point` on, and returns the lowest point
/// found. `precondition` multiplies a vector with an estimate of the inverse Hessian, the better the fewer steps.
///
/// # Errors
/// The function's.
pub(super) fn minimise<E>(
    mut point: Vec<f64>,
    stop: Stop,
    precondition: impl Fn(&mut [f64]),
    mut function: impl FnMut(&[f64]) -> Result<(f64, Vec<f64>), E>,
) -> Result<Vec<f64>, E> {
    let (mut value, mut gradient) = function(&point)?;
    let mut memory = Memory::default();
    for _ in 0..stop.steps {
        if gradient.iter().all(|g| g.abs() <= stop.gradient) {
            break;
        }
        let direction = memory.direction(&gradient, &precondition);
        let slope = dot(&direction, &gradient);
        let mut length = 1.0;
        let mut found = None;
        for _ in 0..HALVINGS {
            let next: Vec<f64> = point.iter().zip(&direction).map(|(p, d)| p + length * d).collect();
            let (next_value, next_gradient) = function(&next)?;
            if next_value <= value + SUFFICIENT * length * slope {
                found = Some((next, next_value, next_gradient));
                break;
            }
            length /= 2.0;
        }
        let Some((next, next_value, next_gradient)) = found else { break };
        memory.add(difference(&next, &point), difference(&next_gradient, &gradient), &precondition);
        (point, value, gradient) = (next, next_value, next_gradient);
    }
    Ok(point)
}

/// The last steps, which stand for the inverse of the Hessian.
#[derive(Default)]
struct Memory {
    pairs: VecDeque<Pair>,
}

struct Pair {
    step: Vec<f64>,
    change: Vec<f64>,
    /// `1 / (step · change)`.
    rho: f64,
    /// What the preconditioner's length of the change has to be multiplied with to be that of the step.
    scale: f64,
}

impl Memory {
    fn add(&mut self, step: Vec<f64>, change: Vec<f64>, precondition: impl Fn(&mut [f64])) {
        let curvature = dot(&step, &change);
        // Rounding may leave none, and the inverse must stay positive.
        if curvature <= f64::EPSILON * dot(&change, &change) {
            return;
        }
        if self.pairs.len() == MEMORY {
            self.pairs.pop_front();
        }
        let mut inverse = change.clone();
        precondition(&mut inverse);
        let scale = curvature / dot(&change, &inverse);
        self.pairs.push_back(Pair { step, change, rho: 1.0 / curvature, scale });
    }

    /// Minus the inverse Hessian times the gradient: the two-loop recursion.
    fn direction(&self, gradient: &[f64], precondition: impl Fn(&mut [f64])) -> Vec<f64> {
        let mut out: Vec<f64> = gradient.iter().map(|g| -g).collect();
        let mut alphas = Vec::with_capacity(self.pairs.len());
        for pair in self.pairs.iter().rev() {
            let alpha = pair.rho * dot(&pair.step, &out);
            add_scaled(&mut out, -alpha, &pair.change);
            alphas.push(alpha);
        }
        precondition(&mut out);
        if let Some(last) = self.pairs.back() {
            out.iter_mut().for_each(|v| *v *= last.scale);
        }
        for (pair, alpha) in self.pairs.iter().zip(alphas.iter().rev()) {
            let beta = pair.rho * dot(&pair.change, &out);
            add_scaled(&mut out, alpha - beta, &pair.step);
        }
        out
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add_scaled(out: &mut [f64], factor: f64, values: &[f64]) {
    out.iter_mut().zip(values).for_each(|(out, value)| *out += factor * value);
}

fn difference(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_minimum_of_an_ill_conditioned_bowl() {
        // Curvatures from 1 to 10,000 around (0, 1, 2, …).
        let curvature = |at: usize| 10f64.powf(at as f64 / 4.75);
        let stop = Stop { gradient: 1e-9, steps: 1000 };
        let found = minimise(
            vec![0.0; 20],
            stop,
            |_| (),
            |x| {
                let value = x.iter().enumerate().map(|(i, x)| curvature(i) / 2.0 * (x - i as f64).powi(2)).sum();
                let gradient = x.iter().enumerate().map(|(i, x)| curvature(i) * (x - i as f64)).collect();
                Ok::<_, std::convert::Infallible>((value, gradient))
            },
        );
        for (i, x) in found.unwrap().iter().enumerate() {
            assert!((x - i as f64).abs() < 1e-8, "{x} instead of {i}");
        }
    }
}
