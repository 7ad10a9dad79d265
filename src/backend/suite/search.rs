//! Filters, orders and counts.

use super::{Environment, later, name, result};
use crate::{
    backend::{Counts, Cursor, ErrorKind, Filter, Matches, Order, Page, PageQuery, Search, State, remove},
    contract::{Classification, Outcome, order::sort_key},
    model::Score,
};

fn folder(path: &str) -> Filter {
    Filter { folder: Some(name(path)), ..Filter::default() }
}

fn text(text: &str) -> Filter {
    Filter { text: Some(text.to_owned()), ..Filter::default() }
}

fn label(label: &str) -> Filter {
    Filter { label: Some(label.to_owned()), ..Filter::default() }
}

fn state(state: State) -> Filter {
    Filter { state: Some(state), ..Filter::default() }
}

fn shown(page: &Page) -> Vec<String> {
    page.results.iter().map(|row| row.image.to_string()).chain(page.waiting.iter().map(ToString::to_string)).collect()
}

/// All that is found, page after page of two, forwards and then backwards, each of them full or the last.
async fn find(env: &Environment, order: Order, filter: &Filter) -> Vec<String> {
    let mut query = PageQuery { order, limit: 2, filter: filter.clone(), ..PageQuery::default() };
    let (mut found, mut last) = (Vec::new(), Page::default());
    loop {
        let page = env.other.results.page(&query).await.unwrap();
        assert_eq!(page.previous.is_some(), !found.is_empty(), "{page:?}");
        assert!(shown(&page).len() == 2 || page.next.is_none(), "{page:?}");
        found.extend(shown(&page));
        match page.next.clone() {
            Some(next) => query.after = Some(next),
            None => {
                last = Page { results: page.results, waiting: page.waiting, previous: page.previous, ..last };
                break;
            }
        }
    }
    let mut backward = shown(&last);
    while let Some(before) = last.previous {
        let query = PageQuery { after: None, before: Some(before), ..query.clone() };
        last = env.other.results.page(&query).await.unwrap();
        assert!(last.next.is_some(), "{last:?}");
        backward.splice(0..0, shown(&last));
    }
    assert_eq!(found, backward, "{filter:?}");
    found
}

pub(crate) async fn finds_names_labels_and_folders(env: &Environment) {
    env.rows(&["cat/0000.jpg", "cat/2.jpg", "cat/10.jpg", "cat/old/1.jpg", "Cat/1.jpg", "cat 1.jpg"], "tabby cat")
        .await;
    env.rows(&["dog/0000.jpg", "cat/11.jpg", "cats/1.jpg"], "dog").await;
    let by_name = async |filter: &Filter| find(env, Order::Name, filter).await;
    let in_cat = ["cat/0000.jpg", "cat/2.jpg", "cat/10.jpg", "cat/11.jpg", "cat/old/1.jpg"];
    assert_eq!(by_name(&folder("cat")).await, in_cat, "and not Cat");
    assert_eq!(by_name(&folder("cat/old")).await, ["cat/old/1.jpg"]);
    assert_eq!(by_name(&folder("cat/o")).await, Vec::<String>::new());
    assert_eq!(by_name(&label("dog")).await, ["cat/11.jpg", "cats/1.jpg", "dog/0000.jpg"]);
    assert_eq!(by_name(&label("tabby")).await, Vec::<String>::new(), "a label counts as a whole");
    assert_eq!(by_name(&Filter { label: Some("dog".into()), ..folder("cat") }).await, ["cat/11.jpg"]);
    assert_eq!(by_name(&text("DOG/")).await, ["dog/0000.jpg"]);
    assert_eq!(by_name(&text("cat/1")).await, ["Cat/1.jpg", "cat/10.jpg", "cat/11.jpg"], "a longer number begins so");
    assert_eq!(by_name(&text("nothing")).await, Vec::<String>::new());
    assert_eq!(by_name(&Filter { text: Some("1".into()), ..folder("cat/old") }).await, ["cat/old/1.jpg"]);
    // From any name, within the filter and beyond it.
    for (cursor, rest) in [("a", 5), ("cat/2.jpg", 3), ("cat/3", 3), ("cat/old/1.jpg", 0), ("x", 0)] {
        let query =
            PageQuery { after: Some(name(cursor).into()), limit: 9, filter: folder("cat"), ..PageQuery::default() };
        let page = env.other.results.page(&query).await.unwrap();
        assert_eq!(shown(&page), in_cat[5 - rest..], "after {cursor}");
        assert_eq!(page.previous.is_some(), rest < 5);
        let at = in_cat.iter().filter(|image| sort_key(image) < sort_key(cursor)).count();
        let query = PageQuery { after: None, before: query.after, ..query };
        let page = env.other.results.page(&query).await.unwrap();
        assert_eq!(
            (shown(&page), page.next.is_some()),
            (in_cat[..at].iter().map(ToString::to_string).collect(), at < 5)
        );
    }
    let page =
        env.other.results.page(&PageQuery { limit: 9, filter: label("dog"), ..PageQuery::default() }).await.unwrap();
    assert_eq!(page.matches, Some(Matches { count: 3, exact: true }));
    let folders = env.other.results.counts(&Filter::default()).await.unwrap().folders;
    let names = |counts: &Counts| counts.folders.iter().map(|f| f.folder.to_string()).collect::<Vec<_>>();
    assert_eq!(folders.iter().map(|f| f.folder.as_str()).collect::<Vec<_>>(), ["Cat", "cat", "cats", "dog"]);
    let counts = env.other.results.counts(&folder("cat")).await.unwrap();
    assert_eq!(names(&counts), ["cat/old"]);
    if counts.exact {
        assert_eq!(folders.iter().map(|f| f.images).collect::<Vec<_>>(), [1, 5, 1, 1].map(Some));
        let counted = async |filter: Filter| {
            let counts = env.other.results.counts(&filter).await.unwrap();
            counts.folders.iter().map(|f| (f.folder.to_string(), f.images.unwrap())).collect::<Vec<_>>()
        };
        let some = |pairs: &[(&str, u64)]| pairs.iter().map(|(f, n)| ((*f).to_owned(), *n)).collect::<Vec<_>>();
        assert_eq!(counted(label("dog")).await, some(&[("cat", 1), ("cats", 1), ("dog", 1)]));
        assert_eq!(counted(text("cat/1")).await, some(&[("Cat", 1), ("cat", 2)]));
        assert_eq!(counted(Filter { text: Some("1".into()), ..folder("cat") }).await, some(&[("cat/old", 1)]));
        assert_eq!(counted(Filter { state: Some(State::Waiting), ..folder("cat") }).await, []);
        remove(&env.backend, &name("cat/old/1.jpg")).await.unwrap();
        assert_eq!(names(&env.other.results.counts(&folder("cat")).await.unwrap()), Vec::<String>::new());
    }
}

pub(crate) async fn says_what_it_cannot_find(env: &Environment) {
    let by = |order, filter| PageQuery { order, filter, limit: 5, ..PageQuery::default() };
    let queries =
        [by(Order::Newest, text("a")), by(Order::Confidence, Filter::default()), by(Order::Name, state(State::Failed))];
    for query in queries {
        match (env.backend.results.search(), env.other.results.page(&query).await) {
            (Search::Substring, page) => assert_eq!(page.unwrap().matches, Some(Matches { count: 0, exact: true })),
            (Search::Prefix, page) => assert_eq!(page.unwrap_err().kind(), ErrorKind::Unsupported, "{query:?}"),
        }
    }
    let place = PageQuery { after: Some(Cursor::Newest(1)), ..by(Order::Name, Filter::default()) };
    assert_eq!(env.backend.results.page(&place).await.unwrap_err().kind(), ErrorKind::Refused);
}

/// A label with this confidence, doubted below a half.
fn sure(label: &str, confidence: f32) -> Outcome {
    Outcome::labelled(vec![Score { label: label.to_owned(), confidence }]).unwrap().doubted_below(0.5)
}

/// Stores images with and without results, of each state some.
async fn some_of_each_state(env: &Environment) {
    let write = async |image: &str, outcome: Outcome| {
        let asked = env.result_for(image, "x").await;
        env.write(&Classification { outcome, ..asked }).await;
    };
    write("b.png", sure("cat", 0.9)).await;
    write("a.png", sure("dog", 0.25)).await;
    write("broken.png", Outcome::Failed { error: "no image".into() }).await;
    write("c.png", sure("cat", 0.5)).await;
    env.put("w2.png", b"w2").await;
    env.put("w1.png", b"w1").await;
}

pub(crate) async fn ignores_case(env: &Environment) {
    if env.backend.results.search() != Search::Substring {
        return;
    }
    let find = async |order, filter: &Filter| find(env, order, filter).await;
    env.put("ÉTÉ 1.png", b"e1").await;
    env.put("été 2.PNG", b"e2").await;
    let summers = |text: &str| Filter { text: Some(text.into()), ..state(State::Waiting) };
    for text in ["é", "É", "Té", "été ", "ÉTÉ "] {
        assert_eq!(find(Order::Name, &summers(text)).await, ["ÉTÉ 1.png", "été 2.PNG"], "{text}");
    }
    assert_eq!(find(Order::Name, &summers("é 2.png")).await, ["été 2.PNG"]);
    assert_eq!(find(Order::Name, &summers("g\né")).await, Vec::<String>::new());
}

pub(crate) async fn finds_neighbours_in_each_order(env: &Environment) {
    if env.backend.results.search() != Search::Substring {
        return;
    }
    some_of_each_state(env).await;
    let beside = async |image: &str, order, filter: Filter| {
        let query = PageQuery { order, filter, limit: 1, ..PageQuery::default() };
        let place = env.other.results.place(&name(image), &query).await.unwrap();
        let next = PageQuery { after: place.clone(), ..query.clone() };
        let previous = PageQuery { before: place.clone(), ..query };
        let first = async |query| shown(&env.other.results.page(&query).await.unwrap()).pop();
        (place.is_some(), first(next).await, first(previous).await)
    };
    let between = |next: &str, previous: &str| (true, Some(next.to_owned()), Some(previous.to_owned()));
    assert_eq!(beside("broken.png", Order::Newest, Filter::default()).await, between("a.png", "c.png"));
    assert_eq!(beside("b.png", Order::Confidence, Filter::default()).await, between("broken.png", "c.png"));
    assert_eq!(beside("b.png", Order::Name, Filter::default()).await, between("broken.png", "a.png"));
    assert_eq!(beside("c.png", Order::Newest, label("cat")).await, (true, Some("b.png".to_owned()), None));
    let waiting = beside("w1.png", Order::Newest, state(State::Waiting)).await;
    assert_eq!(waiting, (true, Some("w2.png".to_owned()), None));
    assert!(!beside("w1.png", Order::Newest, Filter::default()).await.0, "it has no row");
}

pub(crate) async fn orders_and_counts_states(env: &Environment) {
    if env.backend.results.search() != Search::Substring {
        return;
    }
    some_of_each_state(env).await;
    let find = async |order, filter: &Filter| find(env, order, filter).await;
    let all = Filter::default();
    assert_eq!(find(Order::Newest, &all).await, ["c.png", "broken.png", "a.png", "b.png"]);
    assert_eq!(find(Order::Confidence, &all).await, ["a.png", "c.png", "b.png", "broken.png"]);
    assert_eq!(find(Order::Newest, &label("cat")).await, ["c.png", "b.png"]);
    assert_eq!(find(Order::Confidence, &text("N.png")).await, ["broken.png"]);
    assert_eq!(find(Order::Name, &state(State::Labelled)).await, ["a.png", "b.png", "c.png"]);
    assert_eq!(find(Order::Name, &state(State::Uncertain)).await, ["a.png"]);
    assert_eq!(find(Order::Newest, &state(State::Failed)).await, ["broken.png"]);
    assert_eq!(find(Order::Name, &state(State::Waiting)).await, ["w1.png", "w2.png"]);
    assert_eq!(find(Order::Newest, &state(State::Waiting)).await, ["w1.png", "w2.png"]);
    let counts = async |filter: &Filter| {
        let Counts { states, labels, exact, .. } = env.other.results.counts(filter).await.unwrap();
        assert!(exact);
        let labels: Vec<_> = labels.into_iter().map(|count| (count.label, count.images)).collect();
        ((states.labelled, states.uncertain.unwrap(), states.failed, states.waiting.unwrap()), labels)
    };
    let labels = |counts: &[(&str, u64)]| counts.iter().map(|(l, n)| ((*l).to_owned(), *n)).collect::<Vec<_>>();
    assert_eq!(counts(&all).await, ((3, 1, 1, 2), labels(&[("cat", 2), ("dog", 1)])));
    assert_eq!(counts(&text("w")).await, ((0, 0, 0, 2), labels(&[])));
    assert_eq!(counts(&label("dog")).await, ((1, 1, 0, 0), labels(&[("cat", 2), ("dog", 1)])));
    assert_eq!(counts(&state(State::Uncertain)).await, ((3, 1, 1, 2), labels(&[("dog", 1)])));
    // What is written again is the newest, and nothing is counted twice.
    let again = env.backend.results.get(&[name("b.png")]).await.unwrap().remove(0);
    let again = Classification {
        outcome: sure("dog", 0.75),
        sequencer: again.sequencer.as_ref().map(|s| later(s, 1)),
        ..result("b.png", "dog")
    };
    env.write(&again).await;
    assert_eq!(find(Order::Newest, &all).await, ["b.png", "c.png", "broken.png", "a.png"]);
    assert_eq!(counts(&all).await, ((3, 1, 1, 2), labels(&[("dog", 2), ("cat", 1)])));
    for image in ["a.png", "w1.png", "broken.png"] {
        assert!(remove(&env.backend, &name(image)).await.unwrap());
    }
    assert_eq!(counts(&all).await, ((2, 0, 0, 1), labels(&[("cat", 1), ("dog", 1)])));
    assert_eq!(counts(&text("png")).await, ((2, 0, 0, 1), labels(&[("cat", 1), ("dog", 1)])));
    env.backend.reset.reset(&crate::backend::Tally::default()).await.unwrap();
    assert_eq!(counts(&all).await, ((0, 0, 0, 0), labels(&[])));
    assert_eq!(find(Order::Confidence, &text("png")).await, Vec::<String>::new());
}
