import { COMMANDS, type CommandEntry, GLOBAL_OPTIONS, type SHELLS } from './commands.js';

const ENTRIES: readonly (readonly [string, CommandEntry])[] = Object.entries(COMMANDS);

/** The script with which a shell completes the command line of `godwit`. */
export function completionFor(shell: (typeof SHELLS)[number]): string {
  return { bash, zsh, fish }[shell]();
}

/** The options of a command as they are typed. */
function flags(options: CommandEntry['options']): string[] {
  return Object.entries(options).flatMap(([name, { short }]) => [
    `--${name}`,
    ...(short === undefined ? [] : [`-${short}`]),
  ]);
}

/** The options that take a value. */
function withValue(options: CommandEntry['options']): string[] {
  return Object.entries(options).flatMap(([name, { type }]) => (type === 'string' ? [`--${name}`] : []));
}

/** Words that may follow the options; `undefined`: file names. */
function words({ argument }: CommandEntry): readonly string[] | undefined {
  return argument === 'file' ? undefined : (argument ?? []);
}

function bash(): string {
  const cases = ENTRIES.map(([name, entry]) => {
    const argument = words(entry);
    const rest = argument === undefined ? 'local IFS=$\'\\n\'; COMPREPLY=($(compgen -f -- "$word"))' : reply(argument);
    return `    ${name})
      case $word in
        -*) ${reply(flags(entry.options))} ;;
        *) ${rest} ;;
      esac ;;`;
  });
  const valued = ENTRIES.flatMap(([, { options }]) => withValue(options));
  const before =
    valued.length === 0
      ? ''
      : `  case $before in ${[...new Set(valued)].join('|')}) compopt -o default; return ;; esac\n`;
  return `_godwit() {
  local word=\${COMP_WORDS[COMP_CWORD]} before=\${COMP_WORDS[COMP_CWORD-1]}
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    ${reply([...ENTRIES.map(([name]) => name), ...flags(GLOBAL_OPTIONS)])}
    return
  fi
${before}  case \${COMP_WORDS[1]} in
${cases.join('\n')}
  esac
}
complete -o filenames -F _godwit godwit
`;
}

function reply(candidates: readonly string[]): string {
  return `COMPREPLY=($(compgen -W '${candidates.join(' ')}' -- "$word"))`;
}

function zsh(): string {
  const commands = ENTRIES.map(([name, { summary }]) => `    '${name}:${summary}'`);
  const cases = ENTRIES.map(([name, entry]) => {
    const specs = Object.entries(entry.options).map(([option, { type, multiple }]) => {
      const many = multiple === true ? '*' : '';
      return `'${many}--${option}${type === 'string' ? '=:value:_files' : ''}'`;
    });
    const argument = words(entry);
    const rest =
      argument === undefined ? ["'*:file:_files'"] : argument.length > 0 ? [`'1:word:(${argument.join(' ')})'`] : [];
    return `    ${name}) _arguments ${[...specs, ...rest].join(' ')} ;;`;
  });
  return `#compdef godwit
_godwit() {
  local -a commands
  commands=(
${commands.join('\n')}
  )
  if (( CURRENT == 2 )); then
    _describe command commands
    _arguments ${flags(GLOBAL_OPTIONS)
      .map((flag) => `'${flag}'`)
      .join(' ')}
    return
  fi
  local command=$words[2]
  shift words
  (( CURRENT-- ))
  case $command in
${cases.join('\n')}
  esac
}
compdef _godwit godwit
`;
}

function fish(): string {
  const lines = ['complete -c godwit -f'];
  for (const [name, { short }] of Object.entries<{ readonly short?: string }>(GLOBAL_OPTIONS)) {
    lines.push(`complete -c godwit -n __fish_use_subcommand -l ${name}${short === undefined ? '' : ` -s ${short}`}`);
  }
  for (const [name, entry] of ENTRIES) {
    const here = `-n '__fish_seen_subcommand_from ${name}'`;
    lines.push(`complete -c godwit -n __fish_use_subcommand -a ${name} -d '${entry.summary}'`);
    for (const [option, { type, short }] of Object.entries(entry.options)) {
      const more = `${short === undefined ? '' : ` -s ${short}`}${type === 'string' ? ' -r -F' : ''}`;
      lines.push(`complete -c godwit ${here} -l ${option}${more}`);
    }
    const argument = words(entry);
    if (argument === undefined) lines.push(`complete -c godwit ${here} -F`);
    else if (argument.length > 0) lines.push(`complete -c godwit ${here} -a '${argument.join(' ')}'`);
  }
  return `${lines.join('\n')}\n`;
}
