// Count, mean and sum of squared deviations of a set of values, merged by Chan, Golub & LeVeque 1979, eq. 2.1.
struct Moments {
    count: f32,
    mean: f32,
    m2: f32,
}

fn merge(a: Moments, b: Moments) -> Moments {
    let count = a.count + b.count;
    let share = b.count / max(count, 1.0);
    let delta = b.mean - a.mean;
    return Moments(count, a.mean + delta * share, a.m2 + b.m2 + delta * delta * a.count * share);
}
