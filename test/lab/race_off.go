//go:build linux && !race

package lab

// raceDetector tells whether this program was built with the race detector.
const raceDetector = false
