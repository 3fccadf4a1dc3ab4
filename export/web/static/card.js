// The model card's Markdown as elements: headings, paragraphs, lists, tables, code. Text stays text.

/**
 * @param {string} markdown
 * @returns {DocumentFragment}
 */
export function render(markdown) {
  const out = document.createDocumentFragment();
  const lines = markdown.split(/\r?\n/);
  while (lines.length) {
    const line = lines[0];
    const heading = /^(#{1,4}) +(.*)/.exec(line);
    if (!line.trim()) lines.shift();
    else if (line.startsWith("```")) out.append(code(lines));
    else if (heading) {
      // The page's own heading is the first, that of the card's part the second.
      out.append(spans(element(`h${Math.min(6, heading[1].length + 2)}`), heading[2]));
      lines.shift();
    } else if (line.startsWith("|")) out.append(table(take(lines, /^\|/)));
    else if (/^[-*] /.test(line)) out.append(list("ul", take(lines, /^[-*] |^ {2,}\S/)));
    else if (/^\d+\. /.test(line)) out.append(list("ol", take(lines, /^\d+\. |^ {2,}\S/)));
    else out.append(spans(element("p"), take(lines, /^(?!#{1,4} |```|\||[-*] |\d+\. )\S/).join(" ")));
  }
  return out;
}

function element(name, ...children) {
  const out = document.createElement(name);
  out.append(...children);
  return out;
}

/** Removes the lines at the front that fit, at least one. */
function take(lines, pattern) {
  const out = [lines.shift()];
  while (lines.length && pattern.test(lines[0])) out.push(lines.shift());
  return out;
}

function code(lines) {
  lines.shift();
  const out = [];
  while (lines.length && !lines[0].startsWith("```")) out.push(lines.shift());
  lines.shift();
  const block = element("pre", element("code", out.join("\n")));
  block.tabIndex = 0; // it scrolls, so it must be reached by keyboard
  return block;
}

function list(name, lines) {
  const items = [];
  for (const line of lines) {
    if (/^ /.test(line) && items.length) items.push(`${items.pop()} ${line.trim()}`);
    else items.push(line.replace(/^([-*]|\d+\.) +/, ""));
  }
  return element(name, ...items.map((text) => spans(element("li"), text)));
}

function table(lines) {
  const rows = lines.map((line) => {
    const inner = line.trim().replace(/^\||\|$/g, "");
    const cells = inner.replaceAll("\\|", "\0").split("|"); // \\| is text, not the next cell
    return cells.map((text) => text.trim().replaceAll("\0", "|"));
  });
  const [head, rule, ...body] = rows;
  const right = (rule ?? []).map((text) => text.endsWith(":"));
  const row = (cells, name) =>
    element("tr", ...cells.map((text, i) => {
      const cell = spans(element(name), text);
      if (name === "th") cell.scope = "col";
      if (right[i]) cell.className = "number";
      return cell;
    }));
  const out = element("table", element("thead", row(head, "th")));
  out.append(element("tbody", ...body.map((cells) => row(cells, "td"))));
  const box = element("div", out);
  box.className = "scrolls";
  box.tabIndex = 0;
  box.setAttribute("role", "region");
  box.setAttribute("aria-label", `Table: ${head.join(", ")}`);
  return box;
}

/** Text with `code` and **strong** in it, put into an element. */
function spans(parent, text) {
  for (const part of text.split(/(`[^`]+`|\*\*[^*]+\*\*)/)) {
    if (/^`[^`]+`$/.test(part)) parent.append(element("code", part.slice(1, -1)));
    else if (/^\*\*[^*]+\*\*$/.test(part)) parent.append(element("strong", part.slice(2, -2)));
    else parent.append(part);
  }
  return parent;
}
