/** What an element may contain. */
export type Child = Node | string;

/** Makes an element: attributes as in HTML, `class` too. Text becomes text, never markup. */
export function element<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Readonly<Record<string, string>> = {},
  ...children: readonly Child[]
): HTMLElementTagNameMap[K] {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** An element of the page's own markup. */
export function byId(id: string): HTMLElement {
  const found = document.getElementById(id);
  if (found === null) throw new Error(`the page has no element "${id}"`);
  return found;
}

/**
 * Sets the text only if it differs: a screen reader reads out every change, and a change loses the user's selection.
 */
export function setText(node: HTMLElement, text: string): void {
  if (node.textContent !== text) node.textContent = text;
}

/** A table that can be scrolled sideways where the page is too narrow, by keyboard too. */
export function scrolled(label: string, table: HTMLTableElement): HTMLElement {
  return element('div', { class: 'scroll', role: 'region', tabindex: '0', 'aria-label': label }, table);
}

/** A row of cells; the first one is the row's heading. */
export function tableRow(cells: readonly Child[]): HTMLTableRowElement {
  const [first = '', ...others] = cells;
  const row = element('tr', {}, element('th', { scope: 'row' }, first));
  for (const cell of others) row.append(element('td', {}, cell));
  return row;
}

/** The heading of a table. */
export function tableHead(names: readonly Child[]): HTMLTableSectionElement {
  const row = element('tr');
  for (const name of names) row.append(element('th', { scope: 'col' }, name));
  return element('thead', {}, row);
}
