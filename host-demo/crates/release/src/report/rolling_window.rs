//! How many calls lay in a window, as time went on: what a quota is about.

/// How many calls there were in the window that ends at each moment from `from` to `to`, in at most
/// so many columns of equal width. A column has the most of its moments, so that no peak is lost.
///
/// Calls are in order; all times are in milliseconds. A window is half open: a call is in it from
/// its own moment until just before `window` later.
pub(super) fn trailing(calls: &[i64], window: i64, from: i64, to: i64, columns: usize) -> Vec<u32> {
    let moments = usize::try_from(to - from + 1).unwrap_or(0);
    let columns = columns.min(moments);
    // Column i begins at moment i * moments / columns: where that is no whole one, earlier.
    let begin = |i: usize| from + i64::try_from(moments * i / columns).unwrap_or(i64::MAX);
    let within = |calls: &[i64]| u32::try_from(calls.len()).unwrap_or(u32::MAX);
    let (mut first, mut next) = (0, 0);
    let mut most = Vec::with_capacity(columns);
    for i in 0..columns {
        let mut highest = 0;
        // It rises with a call, and falls in between: its highest is at the beginning or at a call.
        let mut at = begin(i);
        loop {
            while calls.get(next).is_some_and(|call| *call <= at) {
                next += 1;
            }
            while first < next && calls[first] <= at - window {
                first += 1;
            }
            highest = highest.max(within(&calls[first..next]));
            match calls.get(next) {
                Some(call) if *call < begin(i + 1) => at = *call,
                _ => break,
            }
        }
        most.push(highest);
    }
    most
}

/// The most calls in any window.
pub(super) fn most(calls: &[i64], window: i64) -> u32 {
    let ends = (1..=calls.len()).map(|n| {
        let last = calls[n - 1];
        n - calls[..n].partition_point(|call| *call <= last - window)
    });
    ends.max()
        .map_or(0, |most| u32::try_from(most).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counted(calls: &[i64], window: i64, at: i64) -> u32 {
        let is_in = |call: &&i64| (at - window + 1..=at).contains(*call);
        u32::try_from(calls.iter().filter(is_in).count()).unwrap()
    }

    proptest! {
        #[test]
        fn a_column_has_the_most_of_its_moments(
            mut calls in prop::collection::vec(0_i64..300, 0..40),
            window in 1_i64..100,
            from in -20_i64..50,
            span in 0_i64..300,
            columns in 1_usize..80,
        ) {
            calls.sort_unstable();
            let found = trailing(&calls, window, from, from + span, columns);
            let moments = usize::try_from(span).unwrap() + 1;
            prop_assert_eq!(found.len(), columns.min(moments));
            let mut expected = vec![0; found.len()];
            for moment in 0..moments {
                // The column whose share of the moments has it.
                let column = (0..found.len())
                    .rfind(|i| moments * i / found.len() <= moment)
                    .unwrap();
                let at = from + i64::try_from(moment).unwrap();
                expected[column] = expected[column].max(counted(&calls, window, at));
            }
            prop_assert_eq!(found, expected);
            let all = (-1..400).map(|at| counted(&calls, window, at)).max();
            prop_assert_eq!(Some(most(&calls, window)), all);
        }
    }
}
