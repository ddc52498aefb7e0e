use super::{Begun, MIGRATIONS, Step, begin, events, newest, order, step, told, unfinished};
use crate::db::Database;
use crate::error::{ApiError, Code};
use crate::money::Cents;
use crate::order::{Order, PlaceOrder, State};

async fn orders(dir: &tempfile::TempDir) -> Database {
    Database::open(&dir.path().join("order.sqlite"), MIGRATIONS).await.unwrap()
}

fn wish(key: &str, quantity: i64) -> PlaceOrder {
    PlaceOrder { key: key.to_owned(), user_id: 1, product_id: 2, quantity }
}

async fn begun(db: &Database, key: &str) -> Order {
    match begin(db, wish(key, 3), format!("id-{key}")).await.unwrap() {
        Begun::New(order) => order,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_key_makes_one_order() {
    let dir = tempfile::tempdir().unwrap();
    let db = orders(&dir).await;
    let first = begun(&db, "k").await;
    assert_eq!(first.state, State::Reserving);
    let Begun::Before(again) = begin(&db, wish("k", 3), "other".to_owned()).await.unwrap() else { panic!("before") };
    assert_eq!(again, first);
    assert!(matches!(begin(&db, wish("k", 4), "other".to_owned()).await.unwrap(), Begun::KeyReused));
    assert_eq!(newest(&db, 1).await.unwrap(), [first]);
}

#[tokio::test]
async fn a_step_is_taken_once_and_only_from_its_state() {
    let dir = tempfile::tempdir().unwrap();
    let db = orders(&dir).await;
    let id = begun(&db, "k").await.id;
    let reserve = || Step::Reserve { unit_price: Cents(10), total: Cents(30) };
    let pay = |by: &str| Step::Pay { payment_id: by.to_owned(), tell: true };
    assert_eq!(step(&db, id.clone(), State::Charging, pay("early")).await.unwrap().state, State::Reserving);
    let charging = step(&db, id.clone(), State::Reserving, reserve()).await.unwrap();
    assert_eq!((charging.state, charging.total_cents), (State::Charging, Some(Cents(30))));
    step(&db, id.clone(), State::Charging, pay("first")).await.unwrap();
    let paid = step(&db, id.clone(), State::Charging, pay("second")).await.unwrap();
    assert_eq!((paid.state, paid.payment_id.as_deref()), (State::Paid, Some("first")));
    let told_once = events(&db).await.unwrap();
    assert_eq!(told_once.len(), 1);
    assert!(told_once[0].1.contains(r#""total_cents":30"#));
    told(&db, told_once[0].0).await.unwrap();
    assert!(events(&db).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_failure_is_remembered_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let db = orders(&dir).await;
    let id = begun(&db, "k").await.id;
    let failure = ApiError::new(Code::PaymentDeclined, "above the limit");
    let given_up = step(&db, id.clone(), State::Reserving, Step::GiveUp(failure.clone())).await.unwrap();
    assert_eq!(given_up.state, State::Releasing);
    step(&db, id.clone(), State::Releasing, Step::Release).await.unwrap();
    let failed = order(&db, id).await.unwrap().unwrap();
    assert_eq!((failed.state, failed.failure), (State::Failed, Some(failure)));
}

#[tokio::test]
async fn only_unfinished_orders_are_taken_up_and_each_gets_its_turn() {
    let dir = tempfile::tempdir().unwrap();
    let db = orders(&dir).await;
    let (stuck, failed) = (begun(&db, "stuck").await, begun(&db, "failed").await);
    step(&db, failed.id, State::Reserving, Step::Fail(ApiError::new(Code::OutOfStock, "none"))).await.unwrap();
    let found = unfinished(&db, 0).await.unwrap();
    assert_eq!(found.iter().map(|s| s.order.id.as_str()).collect::<Vec<_>>(), [stuck.id.as_str()]);
    assert!(unfinished(&db, 60_000).await.unwrap().is_empty());
}
