import { transformSync } from '@swc/core';
import {
  isArrowFunction,
  isBinaryExpression,
  isClassDeclaration,
  isConstructorDeclaration,
  isDeleteExpression,
  isExportDeclaration,
  isExpression,
  isFunctionDeclaration,
  isGetAccessorDeclaration,
  isIdentifier,
  isImportDeclaration,
  isInterfaceDeclaration,
  isMethodDeclaration,
  isPostfixUnaryExpression,
  isPrefixUnaryExpression,
  isPropertyDeclaration,
  isShorthandPropertyAssignment,
  isSourceFile,
  isStatement,
  isTemplateExpression,
  isTypeAliasDeclaration,
  isTypeNode,
  isVariableDeclaration,
  type Node,
  type SourceFile,
  SyntaxKind,
  type VariableDeclaration,
} from 'typescript/unstable/ast';
import { idOf, type Mutant } from './mutant.js';
import { type Change, changesOf } from './operators.js';

/**
 * The name of the function that instrumented code asks at each change. The test environment puts it into the global object; it
 * gets the mutant's number and returns whether this mutant is active.
 */
export const QUESTION = '__isMutant';

/** A source file that contains all of its mutants; the test environment chooses one at run time. */
export interface Instrumented {
  readonly mutants: readonly Mutant[];
  /** The code, in JavaScript. */
  readonly code: string;
}

/** Finds the mutants of a file, and makes code that contains all of them. `first` is the number of the first one. */
export function instrument(source: SourceFile, file: string, first: number): Instrumented {
  const writer = new Writer(source, file, first);
  const typescript = writer.write();
  const { code } = transformSync(typescript, {
    filename: file,
    jsc: {
      parser: { syntax: 'typescript' },
      target: 'es2022',
      transform: { verbatimModuleSyntax: true },
    },
    module: { type: 'es6' },
    configFile: false,
    swcrc: false,
  });
  return { mutants: writer.mutants, code };
}

class Writer {
  readonly mutants: Mutant[] = [];
  readonly #source: SourceFile;
  readonly #file: string;
  readonly #first: number;
  readonly #seen = new Map<string, number>();
  readonly #names: string[] = [];

  constructor(source: SourceFile, file: string, first: number) {
    this.#source = source;
    this.#file = file;
    this.#first = first;
  }

  write(): string {
    return this.#source.text.slice(0, this.#source.getStart()) + this.#rendered(this.#source);
  }

  /** A node's code, with all changes of the node and of the nodes in it. */
  #rendered(node: Node, parent?: Node): string {
    if (isLeftAlone(node, parent)) return node.getText();
    const name = nameOf(node);
    if (name !== undefined) this.#names.push(name);
    const changes = parent === undefined || !mayChange(node, parent) ? [] : changesOf(node, parent);
    const numbered = changes.map((change) => ({ change, number: this.#add(node, change) }));
    let code = this.#withChildren(node);
    for (const { change, number } of numbered) {
      const asked = `globalThis.${QUESTION}(${number})`;
      code = change.code === undefined ? `{ if (!${asked}) { ${code} } }` : `(${asked} ? (${change.code}) : (${code}))`;
    }
    if (name !== undefined) this.#names.pop();
    return code;
  }

  #withChildren(node: Node): string {
    const text = this.#source.text;
    let code = '';
    let at = node.getStart();
    node.forEachChild((child) => {
      code += text.slice(at, child.getStart()) + this.#rendered(child, node);
      at = child.end;
    });
    return code + text.slice(at, node.end);
  }

  #add(node: Node, { what }: Change): number {
    const shown = node.getText().replace(/\s+/g, ' ');
    const code = shown.length > 100 ? `${shown.slice(0, 97)}...` : shown;
    const mutant = { file: this.#file, member: this.#names.join('.') || 'module', code, change: what, nth: 1 };
    const id = idOf(mutant);
    const nth = (this.#seen.get(id) ?? 0) + 1;
    this.#seen.set(id, nth);
    const line = this.#source.text.slice(0, node.getStart()).split('\n').length;
    this.mutants.push({ ...mutant, nth, line });
    return this.#first + this.mutants.length - 1;
  }
}

/** Whether a node gets no mutants: types, imports, names, and the texts of messages. */
function isLeftAlone(node: Node, parent: Node | undefined): boolean {
  if (isTypeNode(node) || isInterfaceDeclaration(node) || isTypeAliasDeclaration(node)) return true;
  if (isImportDeclaration(node) || isExportDeclaration(node) || isTemplateExpression(node)) return true;
  if (parent === undefined) return false;
  return 'name' in parent && parent.name === node && !isIdentifier(node) && isExpression(node);
}

/** Whether a node may be changed: the target of an assignment cannot be replaced by a value. */
function mayChange(node: Node, parent: Node): boolean {
  if (isStatement(node)) return true;
  if (!isExpression(node)) return false;
  if (isShorthandPropertyAssignment(parent) || isDeleteExpression(parent)) return false;
  if (isPrefixUnaryExpression(parent) || isPostfixUnaryExpression(parent)) {
    return parent.operator !== SyntaxKind.PlusPlusToken && parent.operator !== SyntaxKind.MinusMinusToken;
  }
  if (!isBinaryExpression(parent) || parent.left !== node) return true;
  return !/^[^=!<>]*=$/.test(parent.operatorToken.getText());
}

/** The name that a node contributes to the members in it. */
function nameOf(node: Node): string | undefined {
  if (isConstructorDeclaration(node)) return 'constructor';
  if (
    isClassDeclaration(node) ||
    isFunctionDeclaration(node) ||
    isMethodDeclaration(node) ||
    isGetAccessorDeclaration(node) ||
    isPropertyDeclaration(node)
  ) {
    return node.name?.getText();
  }
  // Only constants of the module and named functions have names here.
  return isVariableDeclaration(node) && isIdentifier(node.name) && isNamed(node) ? node.name.text : undefined;
}

function isNamed({ initializer, parent }: VariableDeclaration): boolean {
  if (initializer === undefined) return false;
  return isArrowFunction(initializer) || isSourceFile(parent.parent.parent);
}
