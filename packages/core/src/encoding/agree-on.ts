import { encodingFeature, type PageEncoding } from './page-encoding.js';

/** What a destination that has `mine` makes of the features of a hello. */
export function agreeOn(
  offered: readonly string[],
  mine: readonly PageEncoding[],
): {
  /** What both have. */
  readonly encodings: readonly PageEncoding[];
  /** The same, for the welcome. */
  readonly features: readonly string[];
  /** Names of encodings that only the source has. */
  readonly missing: readonly string[];
} {
  const encodings = mine.filter(({ name }) => offered.includes(encodingFeature(name)));
  const features = encodings.map(({ name }) => encodingFeature(name));
  const prefix = encodingFeature('');
  const missing = offered
    .filter((feature) => feature.startsWith(prefix) && !features.includes(feature))
    .map((feature) => feature.slice(prefix.length));
  return { encodings, features, missing };
}
