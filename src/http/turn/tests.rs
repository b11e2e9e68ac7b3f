//! Laws of turns: how many, whose, and how long one waits, on a clock that stands still.

use super::*;

const MILLISECOND: Duration = Duration::from_millis(1);

/// Takes a turn now or after waiting; how long that took.
async fn waited(turns: &Turns, token: &str, bytes: usize) -> (Option<Turn>, Duration) {
    let began = Instant::now();
    (turns.take(token, bytes).await, began.elapsed())
}

/// All that one token may have at once.
async fn all_of(turns: &Turns, token: &str) -> Vec<Turn> {
    let mut had = Vec::new();
    while turns.0.state().are_free(&turns.0, token) {
        had.extend(turns.take(token, 0).await);
    }
    had
}

/// Turns that an application has as many of as it may, of which two always wait for more.
async fn overloaded(at_a_time: usize) -> (Arc<Turns>, Vec<Turn>) {
    let turns = Arc::new(Turns::new(at_a_time, 8));
    let had = all_of(&turns, "flood").await;
    for start in [0, 1] {
        let turns = turns.clone();
        tokio::spawn(async move {
            tokio::time::sleep(MILLISECOND * start).await;
            while turns.take("flood", 0).await.is_none() {
                tokio::task::yield_now().await;
            }
        });
    }
    tokio::time::sleep(BURST * 4).await;
    (turns, had)
}

fn held(turns: &Turns) -> usize {
    turns.0.state().held
}

fn waiting(turns: &Turns, token: &str) -> usize {
    turns.0.state().tokens.get(token).map_or(0, |it| it.queue.iter().filter(|it| !it.is_closed()).count())
}

#[tokio::test(start_paused = true)]
async fn one_alone_has_half_of_the_turns_and_the_next_when_one_is_given_back() {
    let turns = Turns::new(4, 8);
    let mut had = all_of(&turns, "app").await;
    assert_eq!((had.len(), waiting(&turns, "app")), (2, 0));
    let (next, ()) = tokio::join!(waited(&turns, "app", 0), async {
        tokio::time::sleep(MILLISECOND * 20).await;
        assert_eq!(waiting(&turns, "app"), 1);
        had.pop();
    });
    assert!(next.0.is_some() && next.1 >= MILLISECOND * 20, "{:?}", next.1);
}

#[tokio::test(start_paused = true)]
async fn whoever_floods_a_share_is_left_for_who_comes_next_and_nothing_is_taken_twice() {
    let (turns, had) = overloaded(8).await;
    assert_eq!(had.len(), 4);
    let mut others = Vec::new();
    for token in ["a", "b", "c", "d"] {
        assert!(!turns.are_hopeless(token));
        let (turn, spent) = waited(&turns, token, 0).await;
        assert!(turn.is_some() && spent < MILLISECOND, "{token} waited {spent:?}");
        others.extend(turn);
    }
    assert_eq!(held(&turns), 8);
    let (turn, spent) = waited(&turns, "e", 0).await;
    assert!(turn.is_none() && spent >= LITTLE * PATIENCE, "all are had, and who comes anew is patient: {spent:?}");
    drop((had, others));
    tokio::time::sleep(MILLISECOND).await;
    assert_eq!(held(&turns), 0, "all is given back");
    assert!(turns.0.state().tokens.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_turn_goes_to_the_token_that_has_fewest() {
    let turns = Turns::new(2, 8);
    let (first, second) = (turns.take("a", 0).await, turns.take("b", 0).await);
    let (more, fewest, ()) = tokio::join!(waited(&turns, "a", 0), waited(&turns, "c", 0), async {
        tokio::time::sleep(MILLISECOND).await;
        drop(second);
    });
    assert!(first.is_some() && more.0.is_none() && fewest.0.is_some() && fewest.1 < MILLISECOND * 2);
}

#[tokio::test(start_paused = true)]
async fn of_networks_that_crowd_the_door_each_has_its_turn() {
    let turns = Arc::new(Turns::with_patience(2, 4, Duration::from_secs(5)));
    for n in 0..40 {
        let turns = turns.clone();
        tokio::spawn(async move {
            loop {
                let turn = turns.take(["a", "b", "c", "d"][n % 4], 0).await;
                tokio::time::sleep(MILLISECOND * 20).await;
                drop(turn);
            }
        });
    }
    tokio::time::sleep(MILLISECOND * 500).await;
    for _ in 0..20 {
        let (turn, spent) = waited(&turns, "somebody", 0).await;
        assert!(turn.is_some() && spent <= MILLISECOND * 70, "{spent:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn in_a_burst_one_waits_longer_than_in_an_overload_and_longer_for_more_work() {
    for bytes in [0, 100 * BYTES_A_MILLISECOND] {
        let own_work = LITTLE + MILLISECOND * u32::try_from(bytes / BYTES_A_MILLISECOND).unwrap();
        let turns = Turns::new(8, 8);
        let _had = all_of(&turns, "app").await;
        // That they are had for long is no overload as long as nobody waits.
        tokio::time::sleep(BURST * 2).await;
        let (turn, burst) = waited(&turns, "app", bytes).await;
        assert!(turn.is_none() && burst >= own_work * PATIENCE, "{burst:?}");
        let (turns, _had) = overloaded(12).await;
        let (turn, overload) = waited(&turns, "flood", bytes).await;
        assert!(turn.is_none() && overload >= own_work && overload <= own_work + MILLISECOND * 2, "{overload:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn in_an_overload_there_is_no_hope_when_few_wait_and_soon_after_it_all_is_as_before() {
    let (turns, had) = overloaded(8).await;
    assert!(waiting(&turns, "flood") == 2 && turns.are_hopeless("flood"));
    let (turn, spent) = waited(&turns, "flood", 0).await;
    assert!(turn.is_none() && spent < MILLISECOND, "{spent:?}");
    drop(had);
    tokio::time::sleep(MILLISECOND).await;
    assert!(!turns.are_hopeless("flood") && turns.take("flood", 0).await.is_some());
    assert_eq!((held(&turns), waiting(&turns, "flood")), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn who_finds_no_place_to_wait_is_told_at_once_and_who_gives_up_leaves_his() {
    let turns = Turns::new(2, 1);
    let _had = turns.take("app", 0).await;
    let (waits, refused) = tokio::join!(waited(&turns, "app", 0), waited(&turns, "app", 0));
    assert!(waits.0.is_none() && waits.1 >= LITTLE * PATIENCE);
    assert!(refused.0.is_none() && refused.1 < MILLISECOND, "{:?}", refused.1);
    assert_eq!(waiting(&turns, "app"), 0);
    let given_up = tokio::time::timeout(MILLISECOND, turns.take("app", 0)).await;
    assert!(given_up.is_err() && waiting(&turns, "app") == 0);
}

#[tokio::test]
async fn whoever_asks_however_often_no_more_have_turns_than_there_are_and_none_is_lost() {
    let turns = Arc::new(Turns::new(6, 64));
    let most = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let all: Vec<_> = (0..60)
        .map(|n| {
            let (turns, most) = (turns.clone(), most.clone());
            tokio::spawn(async move {
                let mut had = 0;
                for round in 0..40_u64 {
                    let ask = turns.take(["a", "b", "c", "d"][n % 4], 0);
                    let limit = Duration::from_micros((n as u64 * 37 + round * 11) % 3_000);
                    if let Ok(Some(turn)) = tokio::time::timeout(limit, ask).await {
                        most.fetch_max(held(&turns), std::sync::atomic::Ordering::Relaxed);
                        tokio::time::sleep(Duration::from_micros(200)).await;
                        had += 1;
                        drop(turn);
                    }
                }
                had
            })
        })
        .collect();
    let mut had = 0;
    for one in all {
        had += one.await.unwrap();
    }
    assert!(had > 60, "{had}");
    assert!(most.load(std::sync::atomic::Ordering::Relaxed) <= 6);
    assert_eq!(held(&turns), 0);
    assert!(turns.take("a", 0).await.is_some());
}
