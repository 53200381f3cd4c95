//go:build linux && !race

package script

// raceDetector tells whether this test and the programs have it.
const raceDetector = false
