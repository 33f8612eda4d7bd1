import { encodingFeature, type PageEncoding } from './page-encoding.js';

/** Chooses, of the encodings that a hello offers, those that the destination has (`mine`). */
export function agreeOn(
  offered: readonly string[],
  mine: readonly PageEncoding[],
): {
  /** The encodings that both sides have. */
  readonly encodings: readonly PageEncoding[];
  /** Their names as features, for the welcome. */
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
