# tern: the kernel with its programs in one multiboot image.

TERN := tern
TERN_OUT := $(OUT)/tern
TERN_PROGRAMS := sh echo ps mem spin count sum kill sleep uptime fault poweroff \
	cat head ls cp mv rm mkdir wc grep hexdump free primes dirty dice tick sync churn selftest
TERN_KERNEL := boot vectors switch initrd main bootinfo options segments interrupts traps pic timer \
	uart console panic frames paging space process fpu locks nodes archive pipes files devices view disk \
	cache log inodes ternfs check exec syscall
TERN_FILES := etc/help etc/motd
TERN_LIBRARY := string format
# Tables of functions give all of them the same parameters.
TERN_FLAGS := $(GUEST_FLAGS) -Wno-unused-parameter -I$(TERN)/kernel -I$(TERN_OUT)

TERN_KERNEL_OBJECTS := $(TERN_KERNEL:%=$(TERN_OUT)/kernel/%.o) $(TERN_LIBRARY:%=$(TERN_OUT)/lib/%.o)
TERN_USER_OBJECTS := $(TERN_OUT)/user/start.o $(TERN_OUT)/user/lib.o $(TERN_LIBRARY:%=$(TERN_OUT)/lib/%.o)
TERN_ELVES := $(TERN_PROGRAMS:%=$(TERN_OUT)/bin/%)

$(TERN_OUT)/%.o: $(TERN)/%.c Makefile $(TERN)/tern.mk
	@mkdir -p $(@D)
	@echo '  CC  $<'
	$(Q)$(CC) $(TERN_FLAGS) -MMD -c -o $@ $<

$(TERN_OUT)/%.o: $(TERN)/%.S Makefile $(TERN)/tern.mk
	@mkdir -p $(@D)
	@echo '  CC  $<'
	$(Q)$(CC) $(TERN_FLAGS) -MMD -c -o $@ $<

# selftest has a directory; its main file is in it, too.
TERN_SELFTEST := processes memory faults files pipes fpu times disks
TERN_SELFTEST_OBJECTS := $(TERN_SELFTEST:%=$(TERN_OUT)/user/selftest/%.o)
$(TERN_OUT)/bin/selftest: $(TERN_OUT)/user/selftest/selftest.o $(TERN_SELFTEST_OBJECTS) $(TERN_USER_OBJECTS) \
		$(TERN)/user/user.ld
	@mkdir -p $(@D)
	@echo '  LD  $@'
	$(Q)$(LD) $(GUEST_LDFLAGS) -n -s -T $(TERN)/user/user.ld -o $@ $(filter %.o,$^)

# Programs that compute with floating-point numbers: by the 387's registers.
$(TERN_OUT)/user/dice.o $(TERN_OUT)/user/selftest/fpu.o: private TERN_FLAGS := \
	$(filter-out -mgeneral-regs-only,$(TERN_FLAGS)) -mno-sse -mfpmath=387

$(TERN_OUT)/bin/%: $(TERN_OUT)/user/%.o $(TERN_USER_OBJECTS) $(TERN)/user/user.ld
	@mkdir -p $(@D)
	@echo '  LD  $@'
	$(Q)$(LD) $(GUEST_LDFLAGS) -n -s -T $(TERN)/user/user.ld -o $@ $< $(TERN_USER_OBJECTS)

# The initial archive: linked into the kernel, and a file of its own that can be given as a module.
PYTHON ?= python3
TERN_ARCHIVE := $(TERN)/tools/mkarchive.py
$(OUT)/initrd: $(TERN_ARCHIVE) $(TERN_ELVES) $(TERN_FILES:%=$(TERN)/files/%) $(TERN)/tern.mk
	@echo '  AR  $@'
	$(Q)$(PYTHON) $(TERN_ARCHIVE) $@ dev/ disk/ proc/ \
		$(foreach f,$(TERN_FILES),$f=$(TERN)/files/$f) \
		$(foreach p,$(TERN_PROGRAMS),bin/$p=$(TERN_OUT)/bin/$p)

$(TERN_OUT)/kernel/initrd.o: $(OUT)/initrd
$(TERN_OUT)/kernel/initrd.o: private TERN_FLAGS += -Wa,-I$(OUT)

$(TERN_OUT)/kernel.ld: $(TERN)/kernel/kernel.ld $(TERN)/kernel/layout.h
	@mkdir -p $(@D)
	$(Q)$(CC) -E -P -x c -I$(TERN)/kernel -o $@ $<

TERN_LINK = $(CC) $(TERN_FLAGS) -c -o $(TERN_OUT)/symbols.o $(TERN_OUT)/symbols.S && \
	$(LD) $(GUEST_LDFLAGS) -T $(TERN_OUT)/kernel.ld $(TERN_KERNEL_OBJECTS) $(TERN_OUT)/symbols.o

# Linked twice: the first time to learn where the functions are. Their names go behind the code, so
# they stay where they were.
$(OUT)/tern.elf: $(TERN_KERNEL_OBJECTS) $(TERN_OUT)/kernel.ld $(TERN)/kernel/symbols.awk
	@echo '  LD  $@'
	$(Q)awk -f $(TERN)/kernel/symbols.awk /dev/null > $(TERN_OUT)/symbols.S
	$(Q)$(TERN_LINK) -o $(TERN_OUT)/first.elf
	$(Q)$(NM) -n $(TERN_OUT)/first.elf | awk -f $(TERN)/kernel/symbols.awk > $(TERN_OUT)/symbols.S
	$(Q)$(TERN_LINK) -o $@

.SECONDARY:
-include $(TERN_KERNEL_OBJECTS:.o=.d) $(TERN_USER_OBJECTS:.o=.d) $(TERN_PROGRAMS:%=$(TERN_OUT)/user/%.d) \
	$(TERN_SELFTEST_OBJECTS:.o=.d) $(TERN_OUT)/user/selftest/selftest.d

# make run-tern [APPEND='run="ps; mem"']: on QEMU's ISA PC.
.PHONY: run-tern
run-tern: $(OUT)/tern.elf
	$(TERN)/run-qemu '$(APPEND)'
