//! The same, done for each of many: so many at one time, and what comes of it in their order.

use std::panic::resume_unwind;

use tokio::task::JoinSet;

/// Does `work` for each item. The first is begun first. Dropping the future ends all of it.
pub(crate) async fn in_order<T, F>(
    items: impl IntoIterator<Item = T>,
    at_once: usize,
    work: impl Fn(T) -> F,
) -> Vec<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    let mut items = items.into_iter().enumerate();
    let mut tasks = JoinSet::new();
    let mut results = Vec::new();
    loop {
        while tasks.len() < at_once
            && let Some((index, item)) = items.next()
        {
            let working = work(item);
            tasks.spawn(async move { (index, working.await) });
        }
        match tasks.join_next().await {
            None => break,
            Some(Ok(result)) => results.push(result),
            // None was cancelled: this one panicked, and so does whoever waits for it.
            Some(Err(error)) => resume_unwind(error.into_panic()),
        }
    }
    results.sort_unstable_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn no_more_than_so_many_at_one_time_and_the_results_in_the_items_order() {
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let doubled = in_order(0..50, 4, |n: usize| {
            let (running, most) = (Arc::clone(&running), Arc::clone(&most));
            async move {
                let now = running.fetch_add(1, Ordering::Relaxed) + 1;
                most.fetch_max(now, Ordering::Relaxed);
                // The later ones are done sooner.
                for _ in n..50 {
                    tokio::task::yield_now().await;
                }
                running.fetch_sub(1, Ordering::Relaxed);
                2 * n
            }
        });
        assert_eq!(doubled.await, (0..100).step_by(2).collect::<Vec<_>>());
        assert_eq!(most.load(Ordering::Relaxed), 4);
    }
}
