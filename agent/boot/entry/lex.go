package entry

import (
	"errors"
	"strings"
)

// A word of a GRUB script is made of parts, each either text or a variable.
// One that is quoted stays a word when it is empty, and isn't split.
type (
	part struct {
		text     string
		variable bool
		quoted   bool
	}
	word []part
)

// token is a word, or an operator: ; newline { } or end.
type token struct {
	word word
	op   string
}

// plain returns the text of a word that is one bare text, such as a keyword.
func (t token) plain() string {
	if t.op != "" || len(t.word) != 1 || t.word[0].variable || t.word[0].quoted {
		return ""
	}
	return t.word[0].text
}

// maxTokens bounds a script.
const maxTokens = 200_000

var (
	errLong  = errors.New("the script is too long")
	errQuote = errors.New("a quotation mark is missing")
)

// lex splits a script by the rules of GRUB's shell, which are close to those
// of sh: quotes, backslashes, comments, variables as $name or ${name}.
func lex(s string) ([]token, error) {
	l := lexer{s: s}
	for l.i < len(l.s) {
		if err := l.next(); err != nil {
			return nil, err
		}
		if len(l.out) > maxTokens {
			return nil, errLong
		}
	}
	l.end()
	return append(l.out, token{op: "end"}), nil
}

type lexer struct {
	s    string
	i    int
	text strings.Builder
	word word
	open bool // a word has begun
	out  []token
}

func (l *lexer) flush(quoted bool) {
	if l.text.Len() > 0 {
		l.word = append(l.word, part{text: l.text.String(), quoted: quoted})
		l.text.Reset()
	}
}

// end ends the word, if one has begun.
func (l *lexer) end() {
	l.flush(false)
	if l.open {
		l.out = append(l.out, token{word: l.word})
	}
	l.word, l.open = nil, false
}

func (l *lexer) next() error {
	c := l.s[l.i]
	switch {
	case c == '\\' && l.i+1 < len(l.s):
		if l.s[l.i+1] != '\n' { // else the line goes on
			l.text.WriteByte(l.s[l.i+1])
			l.open = true
		}
		l.i += 2
	case c == ' ' || c == '\t' || c == '\r':
		l.end()
		l.i++
	case c == '\n' || c == ';':
		l.end()
		l.out = append(l.out, token{op: ";"})
		l.i++
	case c == '{' && !l.open:
		l.out = append(l.out, token{op: "{"})
		l.i++
	case c == '}' && !l.open:
		l.out = append(l.out, token{op: "}"})
		l.i++
	case c == '#' && !l.open:
		for l.i < len(l.s) && l.s[l.i] != '\n' {
			l.i++
		}
	case c == '\'':
		return l.single()
	case c == '"':
		return l.double()
	case c == '$':
		l.flush(false)
		l.variable(false)
	default:
		l.text.WriteByte(c)
		l.open = true
		l.i++
	}
	return nil
}

func (l *lexer) single() error {
	l.flush(false)
	n := strings.IndexByte(l.s[l.i+1:], '\'')
	if n < 0 {
		return errQuote
	}
	l.word = append(l.word, part{text: l.s[l.i+1 : l.i+1+n], quoted: true})
	l.open = true
	l.i += n + 2
	return nil
}

func (l *lexer) double() error {
	l.flush(false)
	l.word = append(l.word, part{quoted: true}) // "" is a word
	l.open = true
	for l.i++; l.i < len(l.s); {
		switch c := l.s[l.i]; {
		case c == '"':
			l.flush(true)
			l.i++
			return nil
		case c == '\\' && l.i+1 < len(l.s) && strings.IndexByte(`"\$`+"\n", l.s[l.i+1]) >= 0:
			if l.s[l.i+1] != '\n' {
				l.text.WriteByte(l.s[l.i+1])
			}
			l.i += 2
		case c == '$':
			l.flush(true)
			l.variable(true)
		default:
			l.text.WriteByte(c)
			l.i++
		}
	}
	return errQuote
}

// variable takes $name, ${name} or one of the special ones.
func (l *lexer) variable(quoted bool) {
	l.open = true
	rest := l.s[l.i+1:]
	if strings.HasPrefix(rest, "{") {
		if n := strings.IndexByte(rest, '}'); n > 0 {
			l.word = append(l.word, part{text: rest[1:n], variable: true, quoted: quoted})
			l.i += n + 2
			return
		}
	}
	n := 0
	for n < len(rest) && (rest[n] == '_' || rest[n] >= '0' && rest[n] <= '9' || rest[n] >= 'a' && rest[n] <= 'z' || rest[n] >= 'A' && rest[n] <= 'Z') {
		n++
	}
	if n == 0 && rest != "" && strings.IndexByte("?@*#", rest[0]) >= 0 {
		n = 1
	}
	if n == 0 {
		l.text.WriteByte('$')
		l.i++
		return
	}
	l.word = append(l.word, part{text: rest[:n], variable: true, quoted: quoted})
	l.i += n + 1
}
