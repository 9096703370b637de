package board

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"
)

// Role is what an account may do, in Redfish's words.
type Role string

// The roles.
const (
	Administrator Role = "Administrator"
	Operator      Role = "Operator"
	ReadOnly      Role = "ReadOnly"
	NoAccess      Role = "NoAccess"
)

// Account is a user of the board. Its ID is the slot that IPMI knows it by.
type Account struct {
	ID       int    `json:"id"`
	Username string `json:"username"`
	// Password is kept as it is, because IPMI's authentication needs it so (v2.0 §13.31).
	Password string `json:"password"`
	Role     Role   `json:"role"`
	Enabled  bool   `json:"enabled"`
}

// Bounds of accounts: slot 1 is IPMI's nameless user, which is never enabled;
// names and passwords are as long as IPMI can have them (v2.0 §22.28, §22.30).
const (
	firstAccount = 2
	lastAccount  = 15
	maxUsername  = 16
	minPassword  = 4
	maxPassword  = 20
)

// Errors of accounts.
var (
	ErrNoAccount = errors.New("no such account")
	ErrAccounts  = fmt.Errorf("all %d accounts are taken", lastAccount-firstAccount+1)
	ErrTaken     = errors.New("the name is taken")
	ErrLast      = errors.New("the last enabled administrator stays")
)

// Accounts returns all accounts by their IDs.
func (b *Board) Accounts() []Account {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.saved.Accounts)
}

// Account returns one account, or ErrNoAccount.
func (b *Board) Account(id int) (Account, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, a := range b.saved.Accounts {
		if a.ID == id {
			return a, nil
		}
	}
	return Account{}, ErrNoAccount
}

// Login returns the account of that name if the password is its own and it may log in.
func (b *Board) Login(username, password string) (Account, bool) {
	if _, refused := b.Fault(FaultUnauthorized); refused {
		return Account{}, false
	}
	for _, a := range b.Accounts() {
		if a.Username == username && a.Enabled && a.Role != NoAccess {
			return a, subtle.ConstantTimeCompare([]byte(a.Password), []byte(password)) == 1
		}
	}
	return Account{}, false
}

// PutAccount makes or changes an account; ID 0 takes the first free one.
func (b *Board) PutAccount(a Account) (Account, error) {
	if err := checkAccount(a); err != nil {
		return a, err
	}
	b.mu.Lock()
	a, err := b.putLocked(a)
	b.mu.Unlock()
	if err == nil {
		b.accountsChanged()
	}
	return a, err
}

func checkAccount(a Account) error {
	if a.Username == "" || len(a.Username) > maxUsername {
		return fmt.Errorf("%w: UserName %q: want 1 to %d characters", ErrInvalid, a.Username, maxUsername)
	}
	if len(a.Password) < minPassword || len(a.Password) > maxPassword {
		return fmt.Errorf("%w: Password: want %d to %d characters", ErrInvalid, minPassword, maxPassword)
	}
	for _, s := range []string{a.Username, a.Password} {
		for _, c := range []byte(s) {
			if c < ' ' || c == 0x7f {
				return fmt.Errorf("%w: UserName and Password: want no control characters", ErrInvalid)
			}
		}
	}
	if !slices.Contains([]Role{Administrator, Operator, ReadOnly, NoAccess}, a.Role) {
		return fmt.Errorf("%w: RoleId %q", ErrInvalid, a.Role)
	}
	return nil
}

func (b *Board) putLocked(a Account) (Account, error) {
	used := map[int]bool{}
	at := -1
	for i, other := range b.saved.Accounts {
		used[other.ID] = true
		if other.ID == a.ID {
			at = i
		} else if other.Username == a.Username {
			return a, ErrTaken
		}
	}
	for id := firstAccount; a.ID == 0 && id <= lastAccount; id++ {
		if !used[id] {
			a.ID = id
		}
	}
	if a.ID < firstAccount || a.ID > lastAccount {
		return a, ErrAccounts
	}
	next := slices.Clone(b.saved.Accounts)
	if at >= 0 {
		next[at] = a
	} else {
		next = append(next, a)
		slices.SortFunc(next, func(x, y Account) int { return x.ID - y.ID })
	}
	return a, b.setAccountsLocked(next)
}

// DeleteAccount deletes an account. The last enabled administrator is not.
func (b *Board) DeleteAccount(id int) error {
	b.mu.Lock()
	next := slices.DeleteFunc(slices.Clone(b.saved.Accounts), func(a Account) bool { return a.ID == id })
	err := ErrNoAccount
	if len(next) != len(b.saved.Accounts) {
		err = b.setAccountsLocked(next)
	}
	b.mu.Unlock()
	if err == nil {
		b.accountsChanged()
	}
	return err
}

func (b *Board) setAccountsLocked(next []Account) error {
	if !slices.ContainsFunc(next, func(a Account) bool { return a.Enabled && a.Role == Administrator }) {
		return ErrLast
	}
	was := b.saved.Accounts
	b.saved.Accounts = next
	if err := b.saveLocked(); err != nil {
		b.saved.Accounts = was
		return err
	}
	return nil
}

func (b *Board) accountsChanged() { b.publish(Event{Kind: UsersChanged}) }
