//! Scales of a run of numbers, found by weighted least squares over a few roundings.

/// A fitted run: `value ≈ scale·code − minimum`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Fit {
    pub scale: f32,
    /// Not negative.
    pub minimum: f32,
}

/// How [`affine`] searches.
#[derive(Debug, Clone, Copy)]
pub(super) struct Search {
    /// The largest code.
    pub most: u8,
    /// The first and the number of further ranges that are tried, each a tenth of a code wider.
    pub first: f32,
    pub steps: u8,
    /// Whether the error is absolute instead of squared.
    pub absolute: bool,
}

/// The scale and minimum with the least weighted error among those of some roundings.
///
/// The numbers are rounded to `0..=most` over ranges that end about the largest of them and begin with the least, or 0. Each
/// rounding is fitted by least squares, and the fit with the least error is kept; as in ggml, later ranges begin with its
/// minimum.
pub(super) fn affine(values: &[f32], weights: &[f32], search: Search) -> Fit {
    let most = f32::from(search.most);
    let mut origin = values.iter().copied().fold(f32::INFINITY, f32::min).min(0.0);
    let largest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if largest <= origin {
        return Fit { scale: 0.0, minimum: -origin };
    }
    let pairs = || values.iter().zip(weights);
    let (mut sum_w, mut sum_x) = (0.0, 0.0);
    for (x, w) in pairs() {
        sum_w += w;
        sum_x += w * x;
    }
    let code = |x: f32, origin: f32, inverse: f32| nearest(inverse * (x - origin)).clamp(0.0, most);
    let error = |scale: f32, minimum: f32, origin: f32, inverse: f32| {
        let mut sum = 0.0;
        for (x, w) in pairs() {
            let difference = scale * code(*x, origin, inverse) + minimum - x;
            sum += w * if search.absolute { difference.abs() } else { difference * difference };
        }
        sum
    };
    let inverse = most / (largest - origin);
    let mut best = Fit { scale: 1.0 / inverse, minimum: -origin };
    let mut best_error = error(best.scale, origin, origin, inverse);
    for step in 0..=search.steps {
        let inverse = (search.first + 0.1 * f32::from(step) + most) / (largest - origin);
        let (mut sum_l, mut sum_l2, mut sum_xl) = (0.0, 0.0, 0.0);
        for (x, w) in pairs() {
            let l = code(*x, origin, inverse);
            sum_l += w * l;
            sum_l2 += w * l * l;
            sum_xl += w * l * x;
        }
        let determinant = sum_w * sum_l2 - sum_l * sum_l;
        if determinant <= 0.0 {
            continue;
        }
        let mut scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
        let mut minimum = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
        // The minimum is stored without a sign.
        if minimum > 0.0 {
            (scale, minimum) = (sum_xl / sum_l2, 0.0);
        }
        let error = error(scale, minimum, origin, inverse);
        if error < best_error {
            (best, best_error, origin) = (Fit { scale, minimum: -minimum }, error, minimum);
        }
    }
    best
}

/// The scale of `value ≈ scale·code` with codes `−most..most`, weighted by the squares of the numbers, that explains most of
/// them among 19 roundings.
pub(super) fn symmetric(values: &[f32], most: f32) -> f32 {
    let far = largest(values);
    if far.abs() < 1e-15 {
        return 0.0;
    }
    let sums = |inverse: f32| {
        let (mut sum_xl, mut sum_l2) = (0.0, 0.0);
        for x in values {
            let l = nearest(inverse * x).clamp(-most, most - 1.0);
            let w = x * x;
            sum_xl += w * x * l;
            sum_l2 += w * l * l;
        }
        (sum_xl, sum_l2)
    };
    let (sum_xl, sum_l2) = sums(-most / far);
    let mut scale = if sum_l2 > 0.0 { sum_xl / sum_l2 } else { 0.0 };
    let mut best = scale * sum_xl;
    for step in (-9i8..=9).filter(|step| *step != 0) {
        let (sum_xl, sum_l2) = sums(-(most + 0.1 * f32::from(step)) / far);
        if sum_l2 > 0.0 && sum_xl * sum_xl > best * sum_l2 {
            scale = sum_xl / sum_l2;
            best = scale * sum_xl;
        }
    }
    scale
}

/// The nearest whole number, ties to even.
pub(super) fn nearest(x: f32) -> f32 {
    x.round_ties_even()
}

/// The first number of the largest magnitude.
pub(super) fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |far, value| if value.abs() > far.abs() { *value } else { far })
}
