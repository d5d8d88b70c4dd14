// Package fault lets tests kill the processes of srpo at chosen points. In a normal build [On] is false and every
// function is empty, so the compiler removes the code. With the build tag "faults", a program follows the plan in
// the variable SRPO_FAULT, and writes the points that it passes to the file that SRPO_FAULT_TRACE names.
//
// A point has a name in which every number is replaced by N ("store rename checkpoints/N"), so it has the same name
// in every iteration. The points of one name are numbered. A plan is a list of faults, separated by semicolons, each
// "WHO,WHEN,NAME,K":
//
//	WHO   host: this process gets SIGKILL; plugin: the called process gets it; stop: the called process gets SIGSTOP
//	WHEN  before or after the call; a number: so many microseconds into it; torn: in the middle of a write
//	NAME  of the point or call
//	K     number of the point among those of that name, from 1
package fault

import "strings"

// Name replaces each number in the description of a point by N.
func Name(description string) string {
	var b strings.Builder
	digits := false
	for _, r := range description {
		if r >= '0' && r <= '9' {
			if !digits {
				b.WriteByte('N')
			}
			digits = true
			continue
		}
		digits = false
		b.WriteRune(r)
	}
	return b.String()
}
