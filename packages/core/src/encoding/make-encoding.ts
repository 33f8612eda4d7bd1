import { makeFromRecipe } from '../thread-recipe.js';
import { type DeltaOptions, delta, type EncodingRecipe, type PageEncoding } from './page-encoding.js';

/** Makes an encoding from its recipe, on another thread. Rejects with `GODWIT_INVALID_ARGUMENT` when there is no such function. */
export async function makeEncoding(recipe: EncodingRecipe): Promise<PageEncoding> {
  if (recipe.module === undefined && recipe.make === 'delta') return delta(recipe.options as DeltaOptions);
  return (await makeFromRecipe(recipe, 'an encoding')) as PageEncoding;
}
