import { afterEach, beforeEach, describe } from '@jest/globals';
import { Tmux } from './tmux.js';
import { VmmUser } from './vmm-command.js';

/** What each test has for itself. */
export interface OwnTerminals {
  readonly user: VmmUser;
  readonly tmux: Tmux;
}

/** Makes a user and terminals before each test of the calling file, and removes them after it. */
export function ownTerminals(): OwnTerminals {
  let user: VmmUser;
  let tmux: Tmux;
  beforeEach(() => {
    user = new VmmUser();
    tmux = new Tmux();
  });
  afterEach(() => {
    tmux.close();
    user.remove();
  });
  return {
    get user() {
      return user;
    },
    get tmux() {
      return tmux;
    },
  };
}

/** Tests in terminals; where there are none they are skipped, and their title says why. */
export function describeInTerminals(name: string, suite: () => void): void {
  const problem = Tmux.problem();
  if (problem === undefined) describe(name, suite);
  else describe.skip(`${name} (skipped: ${problem})`, suite);
}
