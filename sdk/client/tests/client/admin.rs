//! Administration against a server that answers what the test says.

use quorate_client::ClientError;
use quorate_client::admin::{Admin, MountOptions};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::fake::{good, soon};

/// Answers one request; gives it without its headers.
async fn answer(listener: &TcpListener, status: &str, body: &str) -> String {
    let (mut stream, _) = good(soon(listener.accept()).await);
    let mut request = Vec::new();
    let (head, length) = loop {
        let read = good(soon(stream.read_buf(&mut request)).await);
        assert!(read > 0, "the client has closed");
        let text = String::from_utf8_lossy(&request).into_owned();
        if let Some((head, _)) = text.split_once("\r\n\r\n") {
            let length = head
                .to_lowercase()
                .lines()
                .find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
            break (head.to_owned(), length.unwrap_or(0));
        }
    };
    let begin = head.len() + 4;
    while request.len() < begin + length {
        assert!(good(soon(stream.read_buf(&mut request)).await) > 0);
    }
    let response = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    good(stream.write_all(response.as_bytes()).await);
    let line = head.lines().next().unwrap_or_default().to_owned();
    format!("{line} {}", String::from_utf8_lossy(&request[begin..]))
}

async fn listen() -> (TcpListener, Admin) {
    let listener = good(TcpListener::bind("127.0.0.1:0").await);
    let address = good(listener.local_addr());
    (listener, good(Admin::new(&address.to_string())))
}

#[tokio::test]
async fn recipes_are_pushed_shown_and_listed() {
    let (listener, admin) = listen().await;
    let body = json!({
        "name": "fair-lock", "digest": "ab", "guard": false, "standing": false, "zxid": 1, "types": [],
        "operations": [{
            "name": "acquire",
            "parameters": [{"name": "name", "type": "string"}],
            "result": "grant",
            "documentation": "Waits its turn.",
        }],
    })
    .to_string();
    let (request, recipe) = tokio::join!(
        answer(&listener, "201 Created", &body),
        admin.push_recipe("fair-lock", "bytes")
    );
    assert_eq!(request, "PUT /v1/recipes/fair-lock HTTP/1.1 bytes");
    let interface = good(recipe).interface.expect("its interface");
    assert_eq!(
        interface.operations[0].signature(),
        "acquire(name: string) -> grant"
    );

    let list = r#"{"recipes":[{"name":"a","digest":"x","bytes":5,"pushed_at":6,"mounts":["/a"]}],"zxid":1}"#;
    let (request, recipes) = tokio::join!(answer(&listener, "200 OK", list), admin.recipes());
    assert_eq!(request, "GET /v1/recipes HTTP/1.1 ");
    let recipes = good(recipes);
    assert_eq!(recipes[0].mounts, Some(vec!["/a".to_owned()]));
    assert_eq!(recipes[0].interface, None);
}

#[tokio::test]
async fn mounts_are_made_listed_and_unmade() {
    let (listener, admin) = listen().await;
    let mount = r#"{"path":"/a b","recipe":"counter","digest":"x","sealed":false,"zxid":1}"#;
    let options = MountOptions {
        parameters: Some(json!({"limit": 3})),
        sealed: Some(false),
        ..MountOptions::default()
    };
    let (request, mounted) = tokio::join!(
        answer(&listener, "201 Created", mount),
        admin.mount("/a b", "counter", options)
    );
    assert_eq!(
        request,
        r#"PUT /v1/mounts/a%20b HTTP/1.1 {"parameters":{"limit":3},"recipe":"counter","sealed":false}"#
    );
    assert_eq!(good(mounted).path, "/a b");

    let list = format!(r#"{{"mounts":[{mount}],"zxid":1}}"#);
    let (_, mounts) = tokio::join!(answer(&listener, "200 OK", &list), admin.mounts());
    assert_eq!(good(mounts).len(), 1);

    let (request, ended) = tokio::join!(
        answer(&listener, "200 OK", r#"{"ended_calls":2,"zxid":1}"#),
        admin.unmount("/a b")
    );
    assert_eq!(request, "DELETE /v1/mounts/a%20b HTTP/1.1 ");
    assert_eq!(ended, Ok(2));
}

#[tokio::test]
async fn refusals_and_strangers_are_told_apart() {
    let (listener, admin) = listen().await;
    let problem = r#"{"error":{"code":"no-recipe","message":"there is no recipe called \"x\""}}"#;
    let (_, error) = tokio::join!(
        answer(&listener, "404 Not Found", problem),
        admin.recipe("x")
    );
    let error = error.map(|_| ()).unwrap_err();
    assert_eq!(error.to_string(), "there is no recipe called \"x\"");
    assert!(matches!(&error, ClientError::Refused { code, .. } if code == "no-recipe"));

    let (_, error) = tokio::join!(
        answer(&listener, "404 Not Found", "<html>"),
        admin.recipe("x")
    );
    let error = error.map(|_| ()).unwrap_err();
    assert!(matches!(error, ClientError::NoHttp { .. }), "{error}");

    drop(listener);
    let error = admin.mounts().await.map(|_| ()).unwrap_err().to_string();
    assert!(
        error.contains("nobody listens there") && error.contains("quorate serve"),
        "{error}"
    );
}

#[tokio::test]
async fn a_component_that_is_kept_already_is_not_sent_again() {
    let (listener, admin) = listen().await;
    let component = b"\0asm\x0d\0\x01\0 and so on";
    let digest = quorate_model::recipe::RecipeDigest::of(component);
    let named = format!(r#"POST /v1/recipes/lock HTTP/1.1 {{"digest":"{digest}"}}"#);
    let kept = format!(r#"{{"name":"lock","digest":"{digest}","operations":[],"zxid":1}}"#);
    let (request, recipe) = tokio::join!(
        answer(&listener, "201 Created", &kept),
        admin.push_recipe("lock", &component[..])
    );
    assert_eq!(request, named);
    assert_eq!(good(recipe).digest, digest.to_string());

    let unknown = r#"{"error":{"code":"no-component","message":"upload it"}}"#;
    let answers = async {
        let first = answer(&listener, "404 Not Found", unknown).await;
        let second = answer(&listener, "201 Created", &kept).await;
        (first, second)
    };
    let ((first, second), recipe) =
        tokio::join!(answers, admin.push_recipe("lock", &component[..]));
    assert_eq!(first, named);
    assert!(second.starts_with("PUT /v1/recipes/lock"), "{second}");
    assert_eq!(good(recipe).name, "lock");
}
