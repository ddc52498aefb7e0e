//! The whole shop on loopback: orders end to end, and that nothing is paid or taken twice whatever fails.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, reason = "test harness")]

mod relay;
mod world;

/// What the shop says over gRPC, compiled once more: the shop's own copy is private.
#[allow(warnings, clippy::all, clippy::pedantic, clippy::restriction, reason = "generated")]
mod pb {
    pub mod health {
        include!("../../src/gen/grpc.health.v1.rs");
    }
    pub mod payment {
        include!("../../src/gen/shop.payment.v1.rs");
    }
}

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use pb::health::HealthCheckRequest;
use pb::health::health_client::HealthClient;
use pb::payment::payments_client::PaymentsClient;
use pb::payment::{Payment, WatchRequest};
use relay::{Mode, Relay};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use world::{Program, Shop, call, send};

const ADA: &str = "ada@shop.example";
const GRACE: &str = "grace@shop.example";

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_reserved_and_paid_once_however_often_it_is_sent() {
    let shop = Shop::start(&[]);
    let ada = shop.login(ADA).await;
    let (status, order) = ada.order(&shop, "first", 1, 2).await;
    assert_eq!((status, &order["state"], &order["total_cents"]), (201, &"paid".into(), &2900.into()), "{order}");
    let (status, again) = ada.order(&shop, "first", 1, 2).await;
    assert_eq!((status, &again), (200, &order));
    let (status, reused) = ada.order(&shop, "first", 1, 3).await;
    assert_eq!((status, &reused["error"]["code"]), (422, &"key-reused".into()));
    let at_once = (0..8).map(|_| ada.order(&shop, "at-once", 1, 1));
    let at_once = futures::future::join_all(at_once).await;
    assert!(at_once.iter().all(|(status, order)| (200..300).contains(status) && order["id"] == at_once[0].1["id"]));
    assert_eq!(shop.stock(1).await, 997);
    assert_eq!(payments(&shop, 2).await.len(), 2);

    let grace = shop.login(GRACE).await;
    let path = format!("/api/orders/{}", order["id"].as_str().unwrap());
    assert_eq!(ada.get(&shop, &path).await, (200, order));
    assert_eq!(grace.get(&shop, &path).await.0, 404);
    let (_, list) = ada.get(&shop, "/api/orders").await;
    assert_eq!(list["orders"].as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_sold_or_paid_is_refused_and_leaves_stock_alone() {
    let shop = Shop::start(&[]);
    let ada = shop.login(ADA).await;
    for (key, product, quantity, want) in [
        ("rare", 8, 4, (409, "out-of-stock")),
        ("rare", 8, 4, (409, "out-of-stock")),
        ("dear", 2, 100, (402, "payment-declined")),
        ("dear", 2, 100, (402, "payment-declined")),
        ("none", 99, 1, (404, "not-found")),
        ("zero", 1, 0, (400, "bad-request")),
        ("no key", 1, 1, (400, "bad-request")),
    ] {
        let (status, refused) = ada.order(&shop, key, product, quantity).await;
        assert_eq!((status, refused["error"]["code"].as_str().unwrap()), want, "{key}: {refused}");
    }
    for (product, want) in [(1, 1000), (2, 1000), (8, 3)] {
        assert_eq!(shop.stock(product).await, want, "product {product}");
    }
    let wish = serde_json::json!({"idempotency_key": "k", "product_id": 1, "quantity": 1});
    for token in [None, Some("wrong")] {
        let (status, _) = call(Method::POST, &shop.storefront, "/api/orders", token, Some(wish.clone())).await;
        assert_eq!(status, 401, "{token:?}");
    }
    let login = serde_json::json!({"email": ADA, "password": "wrong"});
    assert_eq!(call(Method::POST, &shop.storefront, "/api/login", None, Some(login)).await.0, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_waits_for_payments_and_is_charged_once() {
    let relay = Relay::start().await;
    let over = |program: &str, addr| if program == "payment" { relay.before(addr) } else { addr };
    let shop = Shop::start_via(over, &["--timeout-ms", "1000", "--resume-after-ms", "300"]);
    let ada = shop.login(ADA).await;
    let mut orders = Vec::new();
    for (key, mode) in [("down", Mode::Refuse), ("lost", Mode::LoseAnswers)] {
        relay.set(mode);
        let (status, order) = ada.order(&shop, key, 1, 5).await;
        assert_eq!((status, &order["state"]), (202, &"charging".into()), "{mode:?}: {order}");
        orders.push(order["id"].as_str().unwrap().to_owned());
    }
    assert!(payments(&shop, 1).await.iter().any(|paid| paid.order_id == orders[1]), "charged, and nobody knows");
    // Connections whose answers were lost are of no use any more.
    relay.set(Mode::Refuse);
    relay.set(Mode::Pass);
    for order in &orders {
        ada.wait_for(&shop, order, "paid").await;
    }
    let (status, _) = ada.order(&shop, "lost", 1, 5).await;
    assert_eq!(status, 200);
    assert_eq!(shop.stock(1).await, 990);
    let paid: BTreeMap<String, usize> =
        payments(&shop, 2).await.into_iter().fold(BTreeMap::new(), |mut count, paid| {
            *count.entry(paid.order_id).or_default() += 1;
            count
        });
    assert_eq!(paid, orders.into_iter().map(|order| (order, 1)).collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_stock_to_ask_for_nothing_is_charged_and_the_same_key_works_later() {
    let relay = Relay::start().await;
    let over = |program: &str, addr| if program == "product" { relay.before(addr) } else { addr };
    let shop = Shop::start_via(over, &["--timeout-ms", "1000"]);
    let ada = shop.login(ADA).await;
    for (mode, want) in [(Mode::Refuse, (502, "upstream-failed")), (Mode::LoseAnswers, (504, "upstream-timeout"))] {
        relay.set(mode);
        let (status, refused) = ada.order(&shop, "k", 1, 1).await;
        assert_eq!((status, refused["error"]["code"].as_str().unwrap()), want, "{refused}");
    }
    relay.set(Mode::Pass);
    let (status, order) = ada.order(&shop, "k", 1, 1).await;
    assert_eq!((status, &order["state"]), (200, &"paid".into()), "{order}");
    assert_eq!(shop.stock(1).await, 999);
    assert_eq!(payments(&shop, 1).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_away_is_named() {
    let mut shop = Shop::start(&[]);
    let ada = shop.login(ADA).await;
    assert!(page(&shop, None).await.contains("Wool throw"));
    for (program, name) in [(&mut shop.user, "user"), (&mut shop.product, "product")] {
        program.terminate();
        assert!(program.ended().await.success(), "{name}");
    }
    for (path, message) in [("/api/orders", "user cannot be reached"), ("/api/products", "product cannot be reached")] {
        let (status, refused) = ada.get(&shop, path).await;
        assert_eq!((status, &refused["error"]["code"]), (503, &"upstream-unreachable".into()), "{refused}");
        assert_eq!(refused["error"]["message"], message);
    }
    // The page still shows what it saw last, and sells nothing.
    let html = page(&shop, None).await;
    assert!(html.contains("product cannot be reached") && html.contains("Wool throw"), "{html}");
    assert!(html.contains("not to be ordered at the moment"), "{html}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_logs_in_and_orders_without_scripts() {
    let shop = Shop::start(&[]);
    assert!(page(&shop, None).await.contains("Wool throw"));
    let form = |path: &str, cookie: &str, body: String| {
        let request = Request::post(format!("{}{path}", shop.storefront.url()))
            .header("content-type", "application/x-www-form-urlencoded")
            .header("cookie", cookie);
        send(request.body(Full::new(Bytes::from(body))).unwrap())
    };
    let wrong = form("/login", "", format!("email={ADA}&password=wrong")).await;
    assert_eq!(wrong.status(), StatusCode::UNAUTHORIZED);
    let login = form("/login", "", "email=ada%40shop.example&password=warp-and-weft".to_owned()).await;
    assert_eq!(login.status(), StatusCode::SEE_OTHER);
    let cookie = login.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    let html = page(&shop, Some(&cookie)).await;
    let (_, rest) = html.split_once("name=\"idempotency_key\" value=\"").unwrap();
    let key = rest.split('"').next().unwrap();
    let mut places = Vec::new();
    for _ in 0..2 {
        let placed = form("/orders", &cookie, format!("idempotency_key={key}&product_id=1&quantity=1")).await;
        assert_eq!(placed.status(), StatusCode::SEE_OTHER);
        places.push(placed.headers()["location"].to_str().unwrap().to_owned());
    }
    assert_eq!(places[0], places[1]);
    let request = Request::get(format!("{}{}", shop.storefront.url(), places[0])).header("cookie", &cookie);
    let thanks = send(request.body(Full::default()).unwrap()).await;
    assert!(String::from_utf8_lossy(thanks.body()).contains("Thank you: € 14.50 paid."));
    assert_eq!(shop.stock(1).await, 999);
}

#[tokio::test(flavor = "multi_thread")]
async fn paid_orders_are_told_to_the_queue_and_never_wait_for_it() {
    // A queue that takes connections and says nothing at first.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let shop = Shop::start(&["--queue", &addr]);
    let ada = shop.login(ADA).await;
    let (status, order) = ada.order(&shop, "k", 1, 1).await;
    assert_eq!(status, 201);
    drop(listener.accept().await.unwrap());
    let (mut line, _) = tokio::time::timeout(Duration::from_secs(20), listener.accept()).await.unwrap().unwrap();
    let mut said = vec![0; 4096];
    let bytes = line.read(&mut said).await.unwrap();
    let said = String::from_utf8_lossy(&said[..bytes]).into_owned();
    assert!(said.starts_with("*3\r\n$5\r\nRPUSH\r\n$6\r\norders\r\n$"), "{said}");
    assert!(said.contains(order["id"].as_str().unwrap()) && said.contains("\"total_cents\":1450"), "{said}");
    line.write_all(b":1\r\n").await.unwrap();
    // What was taken is not told again: the next command holds the next order alone.
    let (_, next) = ada.order(&shop, "next", 1, 1).await;
    let mut said = vec![0; 4096];
    let bytes = line.read(&mut said).await.unwrap();
    let said = String::from_utf8_lossy(&said[..bytes]).into_owned();
    assert!(said.starts_with("*3\r\n") && said.contains(next["id"].as_str().unwrap()), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_who_comes_again_and_again_orders_and_leaves_when_told_to() {
    let shop = Shop::start(&[]);
    let flags = ["--storefront-url", &shop.storefront.url(), "--visits-per-second", "50"];
    let program = env!("CARGO_BIN_EXE_shop-customer");
    let mut customer = tokio::process::Command::new(program).args(flags).kill_on_drop(true).spawn().unwrap();
    // Of different products, each with a key of its own. It goes on, so that there is no last one to wait for.
    payments_begin(&shop, 3).await;
    let id = customer.id().unwrap().to_string();
    let told = std::process::Command::new("kill").args(["-TERM", &id]).status().unwrap();
    assert!(told.success() && customer.wait().await.unwrap().success());
    assert!(shop.stock(1).await < 1000 && shop.stock(2).await < 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_told_to_end_finishes_what_it_has() {
    let relay = Relay::start().await;
    let over = |program: &str, addr| if program == "payment" { relay.before(addr) } else { addr };
    let mut shop = Shop::start_via(over, &["--timeout-ms", "2000"]);
    let ada = shop.login(ADA).await;
    relay.set(Mode::LoseAnswers);
    let order_addr = shop.order.addr;
    let in_flight = ada.order(&shop, "k", 1, 1);
    let stop = async {
        // The payment is written, so the order is in flight.
        payments(&shop, 1).await;
        shop.order.terminate();
        shop.storefront.terminate();
        while TcpStream::connect(order_addr).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let ((status, order), ()) = tokio::join!(in_flight, stop);
    assert_eq!((status, &order["state"]), (202, &"charging".into()), "{order}");
    for program in [&mut shop.order, &mut shop.storefront, &mut shop.user, &mut shop.payment] {
        program.terminate();
        assert!(program.ended().await.success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_differ_in_what_they_tell_and_share_their_stock() {
    let shop = Shop::start(&[]);
    let v1 = Program::start(env!("CARGO_BIN_EXE_shop-product"), &shop.dir.path().join("product"), &["--name", "one"]);
    for (program, version, rating) in [(&shop.product, "v2", true), (&v1, "v1", false), (&shop.storefront, "v2", true)]
    {
        let path = if program.addr == shop.storefront.addr { "/api/products" } else { "/products" };
        let answer = send(Request::get(format!("{}{path}", program.url())).body(Full::default()).unwrap()).await;
        assert_eq!(answer.headers()["x-product-version"], version);
        let catalogue: serde_json::Value = serde_json::from_slice(answer.body()).unwrap();
        assert_eq!(catalogue["products"][0].get("rating_tenths").is_some(), rating, "{version}");
    }
    let wish = serde_json::json!({"key": "k", "product_id": 1, "quantity": 1});
    for (program, status) in [(&v1, 201), (&shop.product, 200)] {
        assert_eq!(call(Method::POST, program, "/reservations", None, Some(wish.clone())).await.0, status);
    }
    assert_eq!(shop.stock(1).await, 999);
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_says_that_they_are_well() {
    let shop = Shop::start(&[]);
    for program in [&shop.user, &shop.product, &shop.order, &shop.storefront] {
        assert_eq!(call(Method::GET, program, "/healthz", None, None).await.0, 200);
    }
    let mut health = HealthClient::connect(shop.payment.url()).await.unwrap();
    let check = |service: &str| HealthCheckRequest { service: service.to_owned() };
    assert_eq!(health.check(check("")).await.unwrap().get_ref().status, 1);
    assert_eq!(health.check(check("other")).await.unwrap_err().code(), tonic::Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn trace_headers_are_passed_on_to_the_last_service() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let payment_url = format!("http://{}", listener.local_addr().unwrap());
    let shop = Shop::start(&[]);
    let (product_url, file) = (shop.product.url(), shop.dir.path().join("other-order"));
    let flags = ["--product-url", &product_url, "--payment-url", &payment_url, "--follow-payments", "false"];
    let order =
        Program::start(env!("CARGO_BIN_EXE_shop-order"), &file, &[&flags[..], &["--timeout-ms", "1000"]].concat());
    let wish = r#"{"key":"k","user_id":1,"product_id":1,"quantity":1}"#;
    let request = Request::post(format!("{}/orders", order.url()))
        .header("content-type", "application/json")
        .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
        .header("tracestate", "vendor=1");
    let placed = send(request.body(Full::new(Bytes::from_static(wish.as_bytes()))).unwrap());
    let heard = async {
        let (line, _) = listener.accept().await.unwrap();
        first_headers(line).await
    };
    let (placed, headers) = tokio::join!(placed, heard);
    assert_eq!(placed.status(), StatusCode::ACCEPTED);
    assert_eq!(headers["traceparent"], "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    assert_eq!(headers["tracestate"], "vendor=1");
}

/// The headers of the first gRPC call on a connection; the call is never answered.
async fn first_headers(line: TcpStream) -> http::HeaderMap {
    let (sent, mut heard) = tokio::sync::mpsc::channel(1);
    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        let sent = sent.clone();
        async move {
            sent.send(request.headers().clone()).await.unwrap();
            std::future::pending::<Result<http::Response<Full<Bytes>>, std::convert::Infallible>>().await
        }
    });
    let io = hyper_util::rt::TokioIo::new(line);
    let executor = hyper_util::rt::TokioExecutor::new();
    let serving = hyper::server::conn::http2::Builder::new(executor).serve_connection(io, service);
    tokio::select! {
        ended = serving => panic!("{ended:?}"),
        headers = heard.recv() => headers.unwrap(),
    }
}

/// The first payments that were ever made, as the stream tells them.
async fn payments(shop: &Shop, count: usize) -> Vec<Payment> {
    let (mut payments, mut stream) = payments_begin(shop, count).await;
    // Whatever else was made is told within a moment.
    while let Ok(more) = tokio::time::timeout(Duration::from_millis(200), stream.message()).await {
        payments.push(more.unwrap().unwrap());
    }
    payments
}

/// The first `count` payments, and what tells of those that follow.
async fn payments_begin(shop: &Shop, count: usize) -> (Vec<Payment>, tonic::Streaming<Payment>) {
    let mut client = PaymentsClient::connect(shop.payment.url()).await.unwrap();
    let mut stream = client.watch(WatchRequest { after_sequence: Some(0) }).await.unwrap().into_inner();
    let mut payments = Vec::new();
    while payments.len() < count {
        payments.push(stream.message().await.unwrap().unwrap());
    }
    (payments, stream)
}

async fn page(shop: &Shop, cookie: Option<&str>) -> String {
    let request = Request::get(shop.storefront.url()).header("cookie", cookie.unwrap_or_default());
    let answer = send(request.body(Full::default()).unwrap()).await;
    assert_eq!(answer.status(), StatusCode::OK);
    String::from_utf8(answer.body().to_vec()).unwrap()
}
