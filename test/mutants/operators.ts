import {
  type BinaryExpression,
  type CallExpression,
  isArrayLiteralExpression,
  isArrowFunction,
  isAwaitExpression,
  isBinaryExpression,
  isBlock,
  isBreakStatement,
  isCallExpression,
  isCaseClause,
  isConditionalExpression,
  isContinueStatement,
  isDoStatement,
  isElementAccessExpression,
  isExpressionStatement,
  isForStatement,
  isIdentifier,
  isIfStatement,
  isNewExpression,
  isNonNullExpression,
  isNoSubstitutionTemplateLiteral,
  isNumericLiteral,
  isPostfixUnaryExpression,
  isPrefixUnaryExpression,
  isPropertyAccessExpression,
  isReturnStatement,
  isStringLiteral,
  isTemplateExpression,
  isThrowStatement,
  isWhileStatement,
  type NewExpression,
  type Node,
  SyntaxKind,
} from 'typescript/unstable/ast';

/** A change of one node. */
export interface Change {
  /** The description of the change, for people and for the mutant's identity. */
  readonly what: string;
  /** The code in place of the node's; `undefined` removes a statement. */
  readonly code: string | undefined;
}

/** Each operator, and the operators with which a person may confuse it. */
const CONFUSED: Readonly<Record<string, string>> = {
  '<': '<=',
  '<=': '<',
  '>': '>=',
  '>=': '>',
  '===': '!==',
  '!==': '===',
  '+': '-',
  '-': '+',
  '*': '/',
  '/': '*',
  '%': '*',
  '+=': '-=',
  '-=': '+=',
  '&': '|',
  '|': '&',
};

/**
 * The changes of one node:
 *
 * - conditions: always true, never true; a loop's only never
 * - comparisons: the boundary, or the opposite; operands of `&&`, `||` and `??` alone; `!` dropped
 * - arithmetic: `+` and `-`, `*` and `/`; `Math.min` and `Math.max`; `++` and `--`
 * - constants: a number one higher (of more than 2: twice as high), a boolean's opposite, a word empty, a list empty
 * - statements removed; `await` removed; `undefined` returned; the last of several arguments dropped; `?.` without `?`
 *
 * Left alone are the texts of messages, which are for people.
 */
export function changesOf(node: Node, parent: Node): Change[] {
  return [...asStatement(node), ...asCondition(node, parent), ...asExpression(node, parent), ...asResult(node, parent)];
}

function asStatement(node: Node): Change[] {
  if (isThrowStatement(node) || isBreakStatement(node) || isContinueStatement(node)) {
    return [{ what: 'removed', code: undefined }];
  }
  if (!isExpressionStatement(node)) return [];
  const { expression } = node;
  if (isCallExpression(expression) && expression.expression.kind === SyntaxKind.SuperKeyword) return [];
  return [{ what: 'removed', code: undefined }];
}

function asCondition(node: Node, parent: Node): Change[] {
  const always = { what: '-> true', code: 'true' };
  const never = { what: '-> false', code: 'false' };
  if (
    (isIfStatement(parent) && parent.expression === node) ||
    (isConditionalExpression(parent) && parent.condition === node)
  ) {
    return [always, never];
  }
  if ((isWhileStatement(parent) || isDoStatement(parent)) && parent.expression === node) {
    return node.kind === SyntaxKind.TrueKeyword ? [] : [never];
  }
  return isForStatement(parent) && parent.condition === node ? [never] : [];
}

function asResult(node: Node, parent: Node): Change[] {
  const returned = isReturnStatement(parent) || (isArrowFunction(parent) && parent.body === node && !isBlock(node));
  if (!returned || (isIdentifier(node) && node.text === 'undefined')) return [];
  return [{ what: '-> undefined', code: 'undefined' }];
}

function asExpression(node: Node, parent: Node): Change[] {
  const changes: Change[] = [];
  if (isBinaryExpression(node)) changes.push(...ofBinary(node, parent));
  else if (isPrefixUnaryExpression(node)) changes.push(...ofPrefix(node.operator, node.operand, parent));
  else if (isPostfixUnaryExpression(node)) {
    const other = node.operator === SyntaxKind.PlusPlusToken ? '--' : '++';
    changes.push({ what: `-> ${other}`, code: `${node.operand.getText()}${other}` });
  } else if (isAwaitExpression(node)) changes.push({ what: 'without await', code: node.expression.getText() });
  else if (isCallExpression(node) || isNewExpression(node)) changes.push(...ofCall(node));
  else if (isArrayLiteralExpression(node)) {
    if (node.elements.length > 0) changes.push({ what: '-> []', code: '[]' });
  } else changes.push(...ofConstant(node, parent));
  if (isChain(node) && !(isChain(parent) && parent.expression === node)) changes.push(...ofChain(node));
  return changes;
}

function ofBinary(node: BinaryExpression, parent: Node): Change[] {
  const operator = node.operatorToken.getText();
  const left = node.left.getText();
  const right = node.right.getText();
  if (operator === '&&' || operator === '||' || operator === '??') {
    return [
      { what: '-> left side', code: left },
      { what: '-> right side', code: right },
    ];
  }
  // For a whole condition, the opposite adds nothing to the changes `true` and `false`.
  if (isComparison(node) && (isIfStatement(parent) || isConditionalExpression(parent))) return [];
  const other = CONFUSED[operator];
  // Concatenated text is a message.
  if (other === undefined || (operator === '+' && (isText(node.left) || isText(node.right)))) return [];
  return [{ what: `-> ${other}`, code: `${left} ${other} ${right}` }];
}

function ofPrefix(operator: SyntaxKind, operand: Node, parent: Node): Change[] {
  const code = operand.getText();
  if (operator === SyntaxKind.ExclamationToken) {
    return isIfStatement(parent) ? [] : [{ what: 'without !', code }];
  }
  if (operator === SyntaxKind.PlusPlusToken) return [{ what: '-> --', code: `--${code}` }];
  if (operator === SyntaxKind.MinusMinusToken) return [{ what: '-> ++', code: `++${code}` }];
  return operator === SyntaxKind.MinusToken ? [{ what: 'without -', code }] : [];
}

function ofCall(node: CallExpression | NewExpression): Change[] {
  const changes: Change[] = [];
  const name = node.expression.getText();
  const given = node.arguments ?? [];
  const last = given.at(-1);
  if (name === 'Math.min' || name === 'Math.max') {
    const other = name === 'Math.min' ? 'Math.max' : 'Math.min';
    changes.push({ what: `-> ${other}`, code: node.getText().replace(name, other) });
  }
  if (last !== undefined && given.length > 1 && !isText(last)) {
    const rest = given.slice(0, -1).map((argument) => argument.getText());
    const made = isNewExpression(node) ? 'new ' : '';
    changes.push({ what: 'without its last argument', code: `${made}${name}(${rest.join(', ')})` });
  }
  return changes;
}

function ofConstant(node: Node, parent: Node): Change[] {
  if (node.kind === SyntaxKind.TrueKeyword)
    return isWhileStatement(parent) ? [] : [{ what: '-> false', code: 'false' }];
  if (node.kind === SyntaxKind.FalseKeyword) return [{ what: '-> true', code: 'true' }];
  if (isNumericLiteral(node)) {
    const value = Number(node.getText().replaceAll('_', ''));
    const other = String(value > 2 ? 2 * value : value + 1);
    return [{ what: `-> ${other}`, code: other }];
  }
  // In a comparison, an empty word has the same effect as the condition's other changes.
  if (!isStringLiteral(node) || isComparison(parent) || isCaseClause(parent)) return [];
  return /^[\w-]+$/.test(node.text) ? [{ what: "-> ''", code: "''" }] : [];
}

function isComparison(node: Node): boolean {
  return isBinaryExpression(node) && ['===', '!=='].includes(node.operatorToken.getText());
}

/** Whether a node is a text for people: one of several words, or a concatenated one. */
function isText(node: Node): boolean {
  if (isTemplateExpression(node) || isNoSubstitutionTemplateLiteral(node)) return true;
  if (isBinaryExpression(node)) return isText(node.left) || isText(node.right);
  return isStringLiteral(node) && !/^[\w-]*$/.test(node.text);
}

type Chain = Node & { readonly expression: Node; readonly questionDotToken?: Node | undefined };

function isChain(node: Node): node is Chain {
  return (
    isPropertyAccessExpression(node) ||
    isElementAccessExpression(node) ||
    isCallExpression(node) ||
    isNonNullExpression(node)
  );
}

/** The whole chain of `a?.b.c()` without one of its question marks: a part of it would lose its `this`. */
function ofChain(whole: Chain): Change[] {
  const changes: Change[] = [];
  const start = whole.getStart();
  const text = whole.getText();
  for (let link: Node = whole; isChain(link); link = link.expression) {
    const question = link.questionDotToken;
    if (question === undefined) continue;
    const at = question.getStart() - start;
    const dot = isPropertyAccessExpression(link) ? '.' : '';
    changes.push({
      what: `without ?. at ${link.expression.getText()}`,
      code: text.slice(0, at) + dot + text.slice(at + 2),
    });
  }
  return changes;
}
