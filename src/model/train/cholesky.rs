//! Cholesky's factor of a symmetric positive matrix, and what is solved with it.

/// Right sides that are solved at once: each factor is read once for so many.
const SIDE_BY_SIDE: usize = 8;

/// The lower triangle `L` of `matrix = L Lᵀ`.
#[derive(Debug)]
pub(super) struct Cholesky {
    /// `[size][size]`, zeros above the diagonal.
    rows: Vec<f64>,
    size: usize,
}

impl Cholesky {
    /// Factors a symmetric `[size][size]` matrix, of which the lower triangle is read.
    pub(super) fn new(mut rows: Vec<f64>, size: usize) -> Self {
        let largest = (0..size).map(|i| rows[i * size + i]).fold(0.0, f64::max);
        // What rounding has left of nothing.
        let least = f64::EPSILON * largest.max(f64::MIN_POSITIVE);
        for i in 0..size {
            let (above, below) = rows.split_at_mut(i * size);
            let row = &mut below[..size];
            for (j, other) in above.chunks_exact(size).enumerate() {
                row[j] = (row[j] - dot(&row[..j], &other[..j])) / other[j];
            }
            row[i] = (row[i] - dot(&row[..i], &row[..i])).max(least).sqrt();
            row[i + 1..].fill(0.0);
        }
        Self { rows, size }
    }

    /// The factor's rows, `[size][size]`.
    pub(super) fn rows(&self) -> &[f64] {
        &self.rows
    }

    /// Solves `L Lᵀ X = matrix`, `[size][columns]`, in place.
    pub(super) fn solve(&self, matrix: &mut [f64], columns: usize) {
        self.by_columns(matrix, columns, |vectors| {
            self.forward(vectors);
            self.backward(vectors);
        });
    }

    /// Solves `Lᵀ X = matrix`, `[size][columns]`, in place.
    pub(super) fn solve_transposed(&self, matrix: &mut [f64], columns: usize) {
        self.by_columns(matrix, columns, |vectors| self.backward(vectors));
    }

    /// Takes [`SIDE_BY_SIDE`] columns at a time, the last ones filled up with zeros.
    fn by_columns(&self, matrix: &mut [f64], columns: usize, solve: impl Fn(&mut [[f64; SIDE_BY_SIDE]])) {
        let mut vectors = vec![[0.0; SIDE_BY_SIDE]; self.size];
        for first in (0..columns).step_by(SIDE_BY_SIDE) {
            let some = first..columns.min(first + SIDE_BY_SIDE);
            for (vector, row) in vectors.iter_mut().zip(matrix.chunks_exact(columns)) {
                vector[..some.len()].copy_from_slice(&row[some.clone()]);
                vector[some.len()..].fill(0.0);
            }
            solve(&mut vectors);
            for (vector, row) in vectors.iter().zip(matrix.chunks_exact_mut(columns)) {
                row[some.clone()].copy_from_slice(&vector[..some.len()]);
            }
        }
    }

    /// Solves `L X = vectors` in place.
    fn forward(&self, vectors: &mut [[f64; SIDE_BY_SIDE]]) {
        for (i, row) in self.rows.chunks_exact(self.size).enumerate() {
            let (before, vector) = vectors.split_at_mut(i);
            for (factor, before) in row.iter().zip(before) {
                subtract(&mut vector[0], *factor, before);
            }
            vector[0].iter_mut().for_each(|value| *value /= row[i]);
        }
    }

    /// Solves `Lᵀ X = vectors` in place.
    fn backward(&self, vectors: &mut [[f64; SIDE_BY_SIDE]]) {
        for (i, row) in self.rows.chunks_exact(self.size).enumerate().rev() {
            let (before, vector) = vectors.split_at_mut(i);
            vector[0].iter_mut().for_each(|value| *value /= row[i]);
            for (factor, before) in row.iter().zip(before) {
                subtract(before, *factor, &vector[0]);
            }
        }
    }
}

fn subtract(from: &mut [f64; SIDE_BY_SIDE], factor: f64, values: &[f64; SIDE_BY_SIDE]) {
    from.iter_mut().zip(values).for_each(|(from, value)| *from -= factor * value);
}

/// A sum of products in eight parts, which the processor's vectors take at once.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let (a, b) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f64 = a.remainder().iter().zip(b.remainder()).map(|(a, b)| a * b).sum();
    let mut parts = [0.0; 8];
    for (a, b) in a.zip(b) {
        for (part, (a, b)) in parts.iter_mut().zip(a.iter().zip(b)) {
            *part += a * b;
        }
    }
    parts.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn solves_what_was_multiplied() {
        const SIZE: usize = 37;
        let number = |at: usize| (at * 7919 % 101) as f64 / 50.5 - 1.0;
        let factor: Vec<f64> = (0..SIZE * SIZE)
            .map(|at| match (at / SIZE, at % SIZE) {
                (i, j) if i == j => 1.5 + number(at).abs(),
                (i, j) if i > j => number(at) / 4.0,
                _ => 0.0,
            })
            .collect();
        let product = |i: usize, j: usize| dot(&factor[i * SIZE..][..SIZE], &factor[j * SIZE..][..SIZE]);
        let matrix: Vec<f64> = (0..SIZE * SIZE).map(|at| product(at / SIZE, at % SIZE)).collect();
        let found = Cholesky::new(matrix.clone(), SIZE);
        for (found, wanted) in found.rows().iter().zip(&factor) {
            assert!((found - wanted).abs() < 1e-12, "{found} instead of {wanted}");
        }
        for columns in [1, SIDE_BY_SIDE, SIDE_BY_SIDE + 3] {
            let solution: Vec<f64> = (0..SIZE * columns).map(number).collect();
            let times = |matrix: &dyn Fn(usize, usize) -> f64| -> Vec<f64> {
                let sum = |i, c| (0..SIZE).map(|j| matrix(i, j) * solution[j * columns + c]).sum();
                (0..SIZE * columns).map(|at| sum(at / columns, at % columns)).collect()
            };
            let mut solved = times(&|i, j| matrix[i * SIZE + j]);
            found.solve(&mut solved, columns);
            let mut transposed = times(&|i, j| factor[j * SIZE + i]);
            found.solve_transposed(&mut transposed, columns);
            for (found, wanted) in solved.iter().chain(&transposed).zip(solution.iter().chain(&solution)) {
                assert!((found - wanted).abs() < 1e-10, "{found} instead of {wanted}");
            }
        }
    }
}
