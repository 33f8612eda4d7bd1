/** The colours of curves, as the style sheet has them for the light or the dark page. */
export type ColorName = 'wire' | 'link' | 'limit' | 'dirty' | 'guest' | 'muted' | 'line' | 'soft';

/**
 * Colours for curves without a colour of their own; colour-blind readers can tell them apart too, and their order is
 * fixed.
 */
const CYCLE: readonly ColorName[] = ['dirty', 'wire', 'guest', 'link'];

export function colorOf(name: ColorName): string {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

export function cycledColor(index: number): ColorName {
  return CYCLE[index % CYCLE.length] as ColorName;
}

/** Calls back when the page turns light or dark. */
export function onSchemeChange(changed: () => void): void {
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', changed);
}
