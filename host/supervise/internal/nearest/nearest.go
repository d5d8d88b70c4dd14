// Package nearest finds the known name that somebody meant.
package nearest

// To returns the known name with the smallest edit distance to word, or "" when all of them are further away than a third of word's letters (at least
// two edits are forgiven).
func To(word string, known []string) string {
	best, name := max(2, len(word)/3)+1, ""
	for _, k := range known {
		if d := distance(word, k); d < best {
			best, name = d, k
		}
	}
	return name
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			d := diagonal
			if a[i-1] != b[j-1] {
				d = 1 + min(diagonal, row[j], row[j-1])
			}
			diagonal, row[j] = row[j], d
		}
	}
	return row[len(b)]
}
