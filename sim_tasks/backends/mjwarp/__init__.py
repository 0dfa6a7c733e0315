"""MuJoCo Warp behind `SimBackend`: thousands of worlds of one scene, advancing in lock step on one device."""
