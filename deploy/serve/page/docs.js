"use strict";

function element(tag, text = "", className = "") {
  return Object.assign(document.createElement(tag), { textContent: text, className });
}

function route(path, method, operation) {
  const section = element("section", "", "route");
  const title = element("h2");
  title.append(element("code", `${method.toUpperCase()} ${path}`));
  section.append(title, element("p", operation.description ?? ""));
  const list = element("dl");
  for (const parameter of operation.parameters ?? []) {
    list.append(element("dt", parameter.name), element("dd", parameter.description ?? parameter.in));
  }
  const bodies = Object.keys(operation.requestBody?.content ?? {});
  if (bodies.length) list.append(element("dt", "body"), element("dd", bodies.join(" or ")));
  if (list.children.length) section.append(list);
  return section;
}

async function show() {
  const token = sessionStorage.getItem("token");
  const answer = await fetch("/openapi.json", token ? { headers: { Authorization: `Bearer ${token}` } } : {});
  const routes = document.getElementById("routes");
  if (!answer.ok) {
    routes.append(element("p", answer.status === 401 ? "Enter the token on the first page, then reload this one." : "The service did not answer."));
    return;
  }
  for (const [path, methods] of Object.entries((await answer.json()).paths)) {
    for (const [method, operation] of Object.entries(methods)) routes.append(route(path, method, operation));
  }
}

show();
